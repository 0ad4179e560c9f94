"""The messages of grpc.health.v1, without the package that generates them.

They are made in a descriptor pool of their own: the default pool may hold the
official ones already, and two definitions of one name are an error there.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_FIELD = descriptor_pb2.FieldDescriptorProto


def _message(name: str, field: str, kind: _FIELD.Type.ValueType) -> type[Message]:
    """Make the class of a message that has one field, numbered 1."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"e2rank_client/{name}.proto", package="grpc.health.v1", syntax="proto3"
    )
    file.message_type.add(name=name).field.add(
        name=field, number=1, type=kind, label=_FIELD.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"grpc.health.v1.{name}")
    return message_factory.GetMessageClass(descriptor)


# An enumeration and an int32 are the same on the wire.
HealthCheckRequest: Any = _message("HealthCheckRequest", "service", _FIELD.TYPE_STRING)
HealthCheckResponse: Any = _message("HealthCheckResponse", "status", _FIELD.TYPE_INT32)
SERVING, NOT_SERVING = 1, 2


class HealthStub:
    """Like a generated stub, for the RPC that is used here."""

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - grpc.Channel or grpc.aio.Channel, as generated stubs take
        self.Check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
