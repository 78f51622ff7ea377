//! [`Https`]: the HTTP client of a bucket, with the one TLS library that the rest of the tree uses.
//!
//! What is in `reqwest` would take the process's own choice of a library, and panics where there is none.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

const CONNECT: Duration = Duration::from_secs(5);
/// Pieces of state have some MB.
const ANSWER: Duration = Duration::from_secs(60);

/// One client for the bucket and for whoever gives out identities.
#[derive(Debug)]
pub(super) struct Https(reqwest::Client);

impl Https {
    /// A client that trusts the system's authorities, and those in the file `ca`.
    ///
    /// # Errors
    /// The file cannot be read, or the client cannot be made.
    pub(super) fn new(ca: Option<&Path>, loopback: bool) -> Result<Https> {
        let failed = |what: String| Fault::new(FaultKind::Setup, what);
        let mut roots = RootCertStore::empty();
        // An endpoint without TLS needs none; one with it says so when it is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca {
            let unreadable = || format!("`ca` {} has no certificates that can be read", path.display());
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let certificates = certificates.map_err(|error| failed(unreadable()).because(error))?;
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(failed(unreadable()));
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("TLS cannot be set up".to_owned()).because(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // A request is signed for one host.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")));
        if loopback {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| failed("the HTTP client cannot be made".to_owned()).because(error));
        Ok(Https(client?))
    }
}

impl HttpConnector for Https {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
