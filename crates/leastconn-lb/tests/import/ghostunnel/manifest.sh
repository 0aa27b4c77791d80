# A Kubernetes manifest.
apiVersion: v1
kind: Pod
spec:
  containers:
  - name: ghostunnel
    image: ghostunnel/ghostunnel:v1.7.1
    args:
    - server
    - --listen=:8443
    - --target=127.0.0.1:8080
    - --cert=server.crt
    - --key=server.key
    - --cacert=ca.crt
    - "--allow-dns=app.example.com"
    ports:
    - containerPort: 8443
  - name: client
    image: ghostunnel/ghostunnel:v1.7.1
    args: ["client", "--listen=localhost:5432", "--target=db.example.com:8443", "--cacert=ca.crt", "--disable-authentication", "--verify-dns=db.example.com"]
