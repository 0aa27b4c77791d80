#!/bin/sh
set -eu
export LISTEN_ADDR=0.0.0.0
PORT=8443
TARGET="${TARGET:-localhost:8080}"

exec ghostunnel server \
    --listen "$LISTEN_ADDR:$PORT" \
    --target "${TARGET}" \
    --keystore server.pem \
    --cacert ca.crt \
    --allow-cn client \
    --allow-cn "other client" \
    --allow-ou=ops \
    --allow-dns a.example.com \
    --allow-uri spiffe://example.com/ns/*/sa/web \
    --proxy-protocol \
    --connect-timeout 5s --shutdown-timeout 1m \
    --status https://localhost:6060 --enable-pprof
ghostunnel server --listen systemd:tunnel --target unix:/run/app.sock --cert server.crt --key server.key --cacert ca.crt --allow-all
ghostunnel server --listen unix:/run/t.sock --target localhost:9000 --use-workload-api --allow-uri spiffe://example.com/a
ghostunnel server --listen :9443 --target 10.0.0.1:80 --keystore server.p12 --storepass x --cacert ca.crt --allow-policy p.rego --allow-query data.policy.allow
ghostunnel client --listen 127.0.0.1:5432 --target db.example.com:5432 --cacert ca.crt --cert client.crt --key client.key --verify-cn db
ghostunnel client --listen 127.0.0.1:5433 --target db.example.com:5432 --cacert ca.crt --cert client.crt --key client.key --override-server-name db --verify-dns db
ghostunnel client --listen 127.0.0.1:5434 --target db.example.com:5432 --cacert ca.crt --disable-authentication --proxy 10.0.0.1:3128
