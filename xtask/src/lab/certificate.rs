//! A certificate authority that lives as long as its lab.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};

/// Writes `authority.pem`, and `server.pem` with `server.key` for these names and addresses. Gives the hash by
/// which a browser knows the server's key: the SHA-256 of its public half (RFC 7469, section 2.4), in Base64.
pub(super) fn write(folder: &Path, names: &[&str]) -> Result<String> {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "gateway-sensor lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    for (file, text) in [
        ("authority.pem", certificate.pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, &key.subject_public_key_info());
    Ok(BASE64_STANDARD.encode(digest))
}
