"""The models that are served, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from e2rank_server.engine.model import ServedModel
from e2rank_server.errors import UnknownModelError
from e2rank_server.gateway.violations import Violations, utf8_length


class ServedModels:
    """Finds models by their profile's name; the first is the default."""

    def __init__(self, models: Sequence[ServedModel], max_name_bytes: int) -> None:
        self._by_name = {model.description.profile: model for model in models}
        self._default = models[0]
        self._max_name_bytes = max_name_bytes

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedModel:
        """Return the model called `name`; the default for an empty name.

        Raises:
            InvalidRequestError: the name is too long to be one.
            UnknownModelError: no such model is served.
        """
        if not name:
            return self._default
        model = self._by_name.get(name)
        if model is None:
            violations = Violations()
            violations.check_size("model", utf8_length(name), self._max_name_bytes)
            violations.raise_if_any()
            raise UnknownModelError(name, list(self._by_name))
        return model
