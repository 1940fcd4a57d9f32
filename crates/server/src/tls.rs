//! Both ends of TLS, on rustls with the `ring` provider. A certificate that an agent made itself is as good as one of an
//! authority, if the other end was given it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use syncline_core::{Error, ErrorKind, Result};

/// Who an agent is: its certificate, with what leads to an authority, and its key.
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// Reads two PEM files.
    ///
    /// # Errors
    /// Configuration if one of them cannot be used.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = certificates(certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("key", key).with_source(error))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::bug("the TLS provider has no usable version").with_source(error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| {
                Error::configuration("the agent's certificate and key do not belong together")
                    .with_remedy("give the certificate of just this key first, in PEM")
                    .with_source(error)
            })?;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

/// The asking end. It believes the certificates of a file, as such or as authorities, else the system's authorities.
///
/// # Errors
/// Configuration if there is none, or the file cannot be used.
pub(crate) fn trusting(file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let verifier = Verifier::new(file)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug("the TLS provider has no usable version").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a handshake that failed says to an operator.
pub(crate) fn handshake_failed(error: std::io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            Error::configuration(format!("the agent's certificate is not believed: {why:?}"))
                .with_remedy("give its certificate, or that of its authority, in the URL: ?ca=FILE")
        }
        Some(rustls::Error::InvalidMessage(_)) => Error::configuration(
            "what answers there does not speak TLS",
        )
        .with_remedy("give the agent --tls-cert and --tls-key; on this machine ?tls=off will do without"),
        Some(_) => Error::configuration("TLS could not be agreed on with the agent"),
        None => Error::new(ErrorKind::Retriable, "the connection broke off in the TLS handshake"),
    }
    .with_source(error)
}

/// Chain and name, as everywhere; and a certificate that was given as such is believed, whatever name it is for.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(file: Option<&Path>) -> Result<Self> {
        let given = file.map(certificates).transpose()?.unwrap_or_default();
        let system = if file.is_none() { rustls_native_certs::load_native_certs().certs } else { Vec::new() };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.into_iter().chain(given.iter().cloned()));
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let chain = chain.map_err(|error| {
            Error::configuration("no certificate is believed here, so no agent can be")
                .with_remedy("give the agent's certificate in the URL: ?ca=FILE")
                .with_source(error)
        })?;
        Ok(Self { chain, given })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.given.iter().any(|given| given.as_ref() == end_entity.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = found.map_err(|error| unusable("certificate", path).with_source(error))?;
    if found.is_empty() { Err(unusable("certificate", path)) } else { Ok(found) }
}

fn unusable(what: &str, path: &Path) -> Error {
    Error::configuration(format!("the {what} in {} cannot be read", path.display()))
        .with_remedy("name a readable PEM file")
}
