#!/bin/sh
# Two tunnels.
ghostunnel server --listen 0.0.0.0:8443 --target localhost:8080 \
  --cert server.crt --key server.key --cacert ca.crt \
  --allow-cn client1.example.com --allow-ou staff \
  --allow-dns 'app.example.com' --allow-uri 'spiffe://example.org/ns/*/sa/web' \
  --proxy-protocol-mode tls --connect-timeout 5s --max-conn-lifetime 1h &
exec ghostunnel server --listen=127.0.0.1:8444 --target=unix:/run/app.sock \
  --keystore=server.pem --disable-authentication --status=localhost:6060
