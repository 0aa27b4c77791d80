[Service]
ExecStart=/usr/bin/ghostunnel client --listen localhost:5432 --target db.example.com:8443 --keystore client.pem --cacert ca.crt --verify-uri spiffe://example.org/db
