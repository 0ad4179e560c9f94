#!/bin/sh
# Calls a running server from a shell: clients/grpcurl.sh [HOST:PORT]
# It needs grpcurl (https://github.com/fullstorydev/grpcurl) and no .proto file:
# the server describes itself by reflection.
set -eu
address=${1:-127.0.0.1:50051}

call() {
    echo "== $1"
    grpcurl -plaintext -d "${2:-}" "$address" "$1"
}

grpcurl -plaintext "$address" list
call grpc.health.v1.Health/Check '{"service": "e2rank.v1.RerankService"}'
call e2rank.v1.ModelService/GetModel '{}'

# The method is one of "e2rank": {} and "cosine": {}; without one the model's own is used.
call e2rank.v1.RerankService/Rerank '{
  "query": "how do I stop tomatoes from rotting at the bottom",
  "documents": [
    {"id": "a", "text": "Slugs feed at night and shelter under boards by day."},
    {"id": "b", "title": "Blossom-end rot",
     "text": "A dark spot at the base of the fruit means that too little calcium reached it."},
    {"id": "c", "text": "Water tomatoes deeply each morning and mulch them with straw."}
  ],
  "cosine": {},
  "topN": 2,
  "returnDocuments": true
}'

# Vectors are base64 of little-endian float32.
call e2rank.v1.EmbeddingService/Embed '{
  "inputType": "INPUT_TYPE_DOCUMENT",
  "inputs": [{"title": "Blossom-end rot", "text": "A dark spot at the base of the fruit."}]
}'
