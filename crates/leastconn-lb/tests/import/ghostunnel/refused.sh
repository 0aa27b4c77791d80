ghostunnel server --listen 0.0.0.0:8443 --target localhost:8080 --keystore server.p12 --cacert ca.crt --allow-all
ghostunnel server --listen 0.0.0.0:8444 --target localhost:8080 --keystore server.pem --allow-all
ghostunnel server --listen 0.0.0.0:8445 --target localhost:8080 --keystore server.pem --cacert ca.crt --allow-policy policy.rego --allow-query data.policy.allow
ghostunnel client --listen localhost:5432 --target db.example.com:8443 --keystore client.pem --cacert ca.crt --verify-cn db
