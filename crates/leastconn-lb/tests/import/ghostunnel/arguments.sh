server
--listen
localhost:8443
--target
localhost:8080
--keystore
server.pem
--cacert ca.crt
--allow-ou Ops
--enable-pprof
