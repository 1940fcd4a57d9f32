//! TLS as libpq's `sslmode` defines it, on rustls with the `ring` provider.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use syncline_core::{Error, Result};

use crate::postgres::url::{Address, Host, SslMode};

/// The TLS settings for an address; `None` where TLS is not spoken (`sslmode=disable`, sockets).
///
/// # Errors
/// Configuration if the file of trusted roots cannot be used.
pub(crate) fn tls_config(address: &Address) -> Result<Option<Arc<ClientConfig>>> {
    let trust = match (&address.host, address.ssl_mode) {
        (Host::Socket { .. }, _) | (_, SslMode::Disable) => return Ok(None),
        (_, SslMode::Prefer) => Trust::Anyone,
        // As libpq does: a file of roots turns `require` into `verify-ca`.
        (_, SslMode::Require) if address.ssl_root_cert.is_none() => Trust::Anyone,
        (_, SslMode::Require | SslMode::VerifyCa) => Trust::Issuer,
        (_, SslMode::VerifyFull) => Trust::IssuerAndName,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(trust, address.ssl_root_cert.as_deref(), provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug("the TLS provider has no usable version").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

/// Whether a connection failed in the TLS handshake: refused by either side, or broken off in it.
pub(super) fn is_handshake(error: &tokio_postgres::Error) -> bool {
    // The client library says it only by this text; a test holds it to that.
    error.to_string() == "error performing TLS handshake"
}

/// The TLS error inside an error, if it is or wraps one.
pub(super) fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref::<rustls::Error>().or_else(|| inner.and_then(|inner| inner.downcast_ref()))
}

/// Whom a session believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Encrypt only (`prefer`, `require`).
    Anyone,
    /// The chain must end in a trusted root (`verify-ca`).
    Issuer,
    /// And the certificate must be for this host (`verify-full`).
    IssuerAndName,
}

/// libpq's rules over rustls's checks.
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// Absent for [`Trust::Anyone`].
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Roots given by file. A server may present one of them itself (self-signed), which OpenSSL accepts and the chain
    /// check alone would not.
    pinned: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(trust: Trust, roots: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Self> {
        if trust == Trust::Anyone {
            return Ok(Self { trust, provider, chain: None, pinned: Vec::new() });
        }
        let pinned = roots.map(read_roots).transpose()?.unwrap_or_default();
        let mut store = RootCertStore::empty();
        let system =
            if roots.is_none() { rustls_native_certs::load_native_certs().certs } else { Vec::new() };
        store.add_parsable_certificates(system.into_iter().chain(pinned.iter().cloned()));
        if store.is_empty() {
            return Err(Error::configuration(
                "no trusted root certificate was found for sslmode=verify-ca or verify-full",
            )
            .with_remedy("name a PEM file with sslrootcert=FILE"));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(|error| {
                Error::configuration("the trusted root certificates cannot be used").with_source(error)
            })?;
        Ok(Self { trust, provider, chain: Some(chain), pinned })
    }
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |error: rustls::pki_types::pem::Error| {
        Error::configuration(format!("the file of sslrootcert, {}, cannot be read", path.display()))
            .with_remedy("name a readable PEM file of certificates")
            .with_source(error)
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(unusable)?;
    certificates.collect::<std::result::Result<Vec<_>, _>>().map_err(unusable)
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
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.pinned.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.trust == Trust::IssuerAndName {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        // The chain is checked before the name, so a wrong name says that the chain is right.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.trust == Trust::Issuer => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
