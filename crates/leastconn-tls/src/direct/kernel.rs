//! The keys that rustls extracts at the end of a handshake.

use rustls::{
    ConnectionTrafficSecrets, Error, ExtractedSecrets, SupportedCipherSuite,
    kernel::KernelConnection, server::ServerConnectionData,
};

use crate::record::Rekey;

/// The traffic secrets of a finished handshake, and the key schedule that derives later
/// secrets.
pub(crate) struct KernelSecrets {
    pub(super) secrets: ExtractedSecrets,
    pub(super) connection: KernelConnection<ServerConnectionData>,
}

impl KernelSecrets {
    pub(crate) fn new(
        (secrets, connection): (ExtractedSecrets, KernelConnection<ServerConnectionData>),
    ) -> Self {
        Self {
            secrets,
            connection,
        }
    }

    pub(crate) fn suite(&self) -> SupportedCipherSuite {
        self.connection.negotiated_cipher_suite()
    }
}

/// The source of new keys for key updates (TLS 1.3).
pub(crate) struct KernelKeys(pub(super) Box<KernelConnection<ServerConnectionData>>);

impl Rekey for KernelKeys {
    fn next_receiving(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.0.update_rx_secret()?.1)
    }

    fn next_sending(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.0.update_tx_secret()?.1)
    }
}
