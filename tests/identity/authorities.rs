//! Certificates: an authority of the node's, what it has signed, and a stranger.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// PEM files in a folder of this process's own.
pub(crate) struct Authorities {
    folder: PathBuf,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

impl Authorities {
    pub(crate) fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("identity-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = Authorities { folder };
        let (ours, stranger) = (made.authority("ca"), made.authority("stranger"));
        made.signed("server", "127.0.0.1", &ours);
        // For EXTERNAL, the common name is the user.
        made.signed("client", "guest", &ours);
        made.signed("unknown", "guest", &stranger);
        made
    }

    /// A file, such as `ca`, `client` or `client-key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// What the node needs to know.
    pub(crate) fn configuration(&self) -> String {
        let [ca, certificate, key] = ["ca", "server", "server-key"].map(|name| self.file(name).display().to_string());
        format!(
            "ssl_options.cacertfile = {ca}\nssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
        )
    }

    fn authority(&self, name: &str) -> Issuer {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        self.write(name, &issuer.pem());
        issuer
    }

    fn signed(&self, file: &str, name: &str, issuer: &Issuer) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.signed_by(&key, issuer).unwrap().pem());
        self.write(&format!("{file}-key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, pem: &str) {
        std::fs::write(self.file(name), pem).unwrap();
    }
}
