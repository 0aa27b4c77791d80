import java.io.*;
import java.security.*;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

/** Downloads a number of bytes with a TLS 1.3 key limit; arguments: port, p12, CA, bytes, limit. */
public class Download {
    public static void main(String[] args) throws Exception {
        Security.setProperty("jdk.tls.keyLimits", "AES/GCM/NoPadding KeyUpdate " + args[4]);
        KeyStore own = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(args[1])) {
            own.load(in, "changeit".toCharArray());
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(own, "changeit".toCharArray());
        KeyStore authorities = KeyStore.getInstance("PKCS12");
        authorities.load(null, null);
        try (InputStream in = new FileInputStream(args[2])) {
            authorities.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(authorities);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        long wanted = Long.parseLong(args[3]), received = 0;
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("localhost", Integer.parseInt(args[0]))) {
            socket.setEnabledProtocols(new String[] {"TLSv1.3"});
            socket.getOutputStream().write('g');
            InputStream in = socket.getInputStream();
            byte[] buffer = new byte[65536];
            for (int count; received < wanted && (count = in.read(buffer)) > 0; received += count) {}
        }
        System.out.println(received);
    }
}
