#!/bin/bash
# Whether vlmd is ready to answer, for HEALTHCHECK: images have no HTTP client. Asks the port for
# probes if there is one, else the port that serves.
port=${VLMD_HEALTH_PORT:-${NIM_HEALTH_PORT:-${VLMD_PORT:-${NIM_SERVER_PORT:-${NIM_HTTP_API_PORT:-8000}}}}}
exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
printf 'GET /v1/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3 && [ "$status" = 200 ]
