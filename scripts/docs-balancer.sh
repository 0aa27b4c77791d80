# shellcheck shell=bash
# Sourced by pages that scripts/docs-test.py runs: starts two servers and a balancer in the
# working directory, and makes a few connections. Files: leastconn.toml, access.log, messages.log,
# lb.pid, pki. `call CLIENT` connects as CLIENT.

leastconn-lb pki init pki >/dev/null
leastconn-lb pki issue pki --cn lb.com --dns lb.com --dns lb.example.com --server --out server >/dev/null
for client in client1.lb.com client2.lb.com client1.example.com stranger.lb.com; do
  leastconn-lb pki issue pki --cn "$client" --client >/dev/null
done
cp pki/ca.crl /etc/leastconn/ca.crl
for file in ca.crt ca.crl server.crt server.key; do ln -s "pki/$file" "$file"; done
for file in client1 client; do
  ln -s pki/client1.lb.com.crt "$file.crt"
  ln -s pki/client1.lb.com.key "$file.key"
done

mkdir www
echo 'hello' >www/index.html
for port in 8081 8082; do
  python3 -m http.server "$port" --bind 127.0.0.1 --directory www >/dev/null 2>&1 &
done
wait_for nc -z 127.0.0.1 8081
wait_for nc -z 127.0.0.1 8082

cat >leastconn.toml <<'END'
[log]
access = "access.log"

[admin]
bind = "127.0.0.1:9901"
socket = "leastconn.sock"

[[listener]]
name = "main"
bind = "127.0.0.1:9443"
upstream = "web"
tls = { cert = "pki/server.crt", key = "pki/server.key", client_ca = "pki/ca.crt", crl = "/etc/leastconn/ca.crl" }

[[upstream]]
name = "web"
servers = [
  { name = "webapp1", address = "127.0.0.1:8081" },
  { name = "webapp2", address = "127.0.0.1:8082", weight = 2 },
]

[[client]]
name = "client1"
match = { cn = "client1.*.com" }
allow = ["web"]

[[client]]
name = "client2"
match = { cn = "client2.lb.com" }
allow = ["web/webapp2"]
END

leastconn-lb run 2>messages.log &
echo $! >lb.pid
wait_for leastconn-lb healthcheck

call() {
  curl -sS -m 5 --cacert pki/ca.crt --cert "pki/$1.crt" --key "pki/$1.key" \
    --connect-to lb.com:443:127.0.0.1:9443 https://lb.com/
}
wait_for call client1.lb.com
for client in client1.lb.com client2.lb.com client1.example.com; do call "$client" >/dev/null; done
call stranger.lb.com >/dev/null 2>&1 || true
curl -sk -m 5 https://127.0.0.1:9443/ >/dev/null 2>&1 || true
wait_for grep -q no_certificate access.log
