//! Public keys that tokens are verified with: a JSON web key set (RFC 7517), or
//! PEM with public keys or certificates.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;

use crate::server::listen::Error;

#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    kid: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Keys {
    /// Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        std::fs::read(path)
            .and_then(|content| Self::parse(&content))
            .map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })
    }

    pub(crate) fn of_ed25519(public: &[u8]) -> Self {
        Self(vec![Key {
            id: None,
            kind: Kind::Ed25519(public.to_owned()),
        }])
    }

    fn parse(content: &[u8]) -> io::Result<Self> {
        let keys = if content.trim_ascii_start().starts_with(b"{") {
            let set: Set = match serde_json::from_slice(content) {
                Ok(set) => set,
                // One key alone.
                Err(error) => Set {
                    keys: vec![
                        serde_json::from_slice(content).map_err(|_| invalid(error.to_string()))?,
                    ],
                },
            };
            let keys = set.keys.into_iter().map(Jwk::key);
            keys.collect::<io::Result<Vec<_>>>()?
        } else {
            pem(content)?
        };
        if keys.is_empty() {
            return Err(invalid(
                "it has neither a JSON web key set nor public keys or certificates in PEM",
            ));
        }
        Ok(Self(keys))
    }

    /// Whether one of the keys, that of the ID if there is one, signed it.
    pub(crate) fn verify(
        &self,
        algorithm: &str,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let named = self
            .0
            .iter()
            .any(|key| id.is_some() && key.id.as_deref() == id);
        let fits = self
            .0
            .iter()
            .filter(|key| !named || key.id.as_deref() == id)
            .any(|key| match (algorithm, &key.kind) {
                ("RS256", Kind::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .is_ok(),
                ("ES256", Kind::P256(point)) => {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                        .verify(message, signature)
                        .is_ok()
                }
                ("EdDSA", Kind::Ed25519(point)) => UnparsedPublicKey::new(&ED25519, point)
                    .verify(message, signature)
                    .is_ok(),
                _ => false,
            });
        if fits {
            Ok(())
        } else {
            Err(format!("no key verifies its {algorithm:?} signature"))
        }
    }
}

impl Jwk {
    fn key(self) -> io::Result<Key> {
        let decode = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|_| invalid("a key is not base64"))
        };
        let kind = match (self.kty.as_str(), self.crv.as_str()) {
            ("RSA", _) => Kind::Rsa {
                n: decode(&self.n)?,
                e: decode(&self.e)?,
            },
            ("EC", "P-256") => {
                let mut point = vec![4];
                point.extend(decode(&self.x)?);
                point.extend(decode(&self.y)?);
                Kind::P256(point)
            }
            ("OKP", "Ed25519") => Kind::Ed25519(decode(&self.x)?),
            (kty, crv) => {
                return Err(invalid(format!(
                    "a key of type {kty} {crv} is not supported: RSA, EC P-256 and OKP Ed25519 are"
                )));
            }
        };
        Ok(Key { id: self.kid, kind })
    }
}

fn pem(content: &[u8]) -> io::Result<Vec<Key>> {
    let broken = |error: rustls::pki_types::pem::Error| invalid(error.to_string());
    let mut keys = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(content) {
        keys.push(key_of_info(&key.map_err(broken)?)?);
    }
    for certificate in CertificateDer::pem_slice_iter(content) {
        let certificate = certificate.map_err(broken)?;
        let info = info_of(&certificate).ok_or_else(|| invalid("a certificate is broken"))?;
        keys.push(key_of_info(info)?);
    }
    Ok(keys)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// A DER value.
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    /// Tag and length included.
    whole: &'a [u8],
    /// What comes after it.
    after: &'a [u8],
}

/// The first value of `input`.
fn der(input: &[u8]) -> Option<Value<'_>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some(Value {
        tag,
        content,
        whole: &input[..input.len() - after.len()],
        after,
    })
}

fn expect(input: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let value = der(input)?;
    (value.tag == wanted).then_some((value.content, value.after))
}

/// The public key in a certificate (RFC 5280).
fn info_of(certificate: &[u8]) -> Option<&[u8]> {
    let (content, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(content, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    // Serial number, then algorithm, issuer, validity, subject.
    let (_, mut rest) = expect(rest, INTEGER)?;
    for _ in 0..4 {
        (_, rest) = expect(rest, SEQUENCE)?;
    }
    let value = der(rest)?;
    (value.tag == SEQUENCE).then_some(value.whole)
}

/// A SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
fn key_of_info(info: &[u8]) -> io::Result<Key> {
    let parts = || {
        let (content, _) = expect(info, SEQUENCE)?;
        let (algorithm, rest) = expect(content, SEQUENCE)?;
        let (oid, parameters) = expect(algorithm, OID)?;
        let (bits, _) = expect(rest, BIT_STRING)?;
        Some((oid, parameters, bits.strip_prefix(&[0])?))
    };
    let (oid, parameters, bits) = parts().ok_or_else(|| invalid("a public key is broken"))?;
    // rsaEncryption, id-ecPublicKey with prime256v1, id-Ed25519
    let kind = match oid {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => {
            let numbers = || {
                let (content, _) = expect(bits, SEQUENCE)?;
                let (n, rest) = expect(content, INTEGER)?;
                let (e, _) = expect(rest, INTEGER)?;
                let strip = |n: &[u8]| n.strip_prefix(&[0]).unwrap_or(n).to_owned();
                Some(Kind::Rsa {
                    n: strip(n),
                    e: strip(e),
                })
            };
            numbers().ok_or_else(|| invalid("an RSA key is broken"))?
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]
            if parameters == [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] =>
        {
            Kind::P256(bits.to_owned())
        }
        [0x2b, 0x65, 0x70] => Kind::Ed25519(bits.to_owned()),
        _ => {
            return Err(invalid(
                "a public key is of no supported type: RSA, EC P-256 and Ed25519 are",
            ));
        }
    };
    Ok(Key { id: None, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    /// Made with `openssl genrsa`; the signature is of "message".
    const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtZQ7mDEYkPl5UW1uEPTM\n\
PtJPjAkreuC48Kb+EFtC8P7zG5HPthyGa+WwUAdDUc02Cl2+HVQ6QLYSIXdLzjwU\n\
Y/Kp7G7CrUcigY6w88GRUmMoTztYjluxwRgiu8UCPSxjmCwcFdaUvK3kZv6rkacb\n\
THewvYj7m629ZHMDSbjAjHI8K+yW0iv2wP7dGv05TYIYoGDPCMG2dq1Fi0sLKSTE\n\
h5zfx6pw/572ypUgBeibzsVs6+exiyfySSH5NjZ/t0uec6KY/T/Esf8cY9haqWHb\n\
0bxcvtb2kvUHbrW1lVHI6iarD15DGIXIkJDu5isoQjym7LbpwNaTfz2IWbgpqyLU\n\
jQIDAQAB\n\
-----END PUBLIC KEY-----\n\
";
    const RSA_N: &str = "tZQ7mDEYkPl5UW1uEPTMPtJPjAkreuC48Kb-EFtC8P7zG5HPthyGa-WwUAdDUc02Cl2-HVQ6QLYSIXdLzjwUY_Kp7G7CrUcigY6w88GRUmMoTztYjluxwRgiu8UCPSxjmCwcFdaUvK3kZv6rkacbTHewvYj7m629ZHMDSbjAjHI8K-yW0iv2wP7dGv05TYIYoGDPCMG2dq1Fi0sLKSTEh5zfx6pw_572ypUgBeibzsVs6-exiyfySSH5NjZ_t0uec6KY_T_Esf8cY9haqWHb0bxcvtb2kvUHbrW1lVHI6iarD15DGIXIkJDu5isoQjym7LbpwNaTfz2IWbgpqyLUjQ";
    const RSA_SIGNATURE: &str = "ZCue9QDF3jEayFJJPqOPg8NYfWIzUkUeBFdBp_fHw9UQ7MlDFOxDNBwoTnrzPAlKrGttMakPnxY4xm-Fo9_1zGEa4OoZEWTVPTNFK7zHHP18-W8X5ko_JGJFn-yK5unH_amJKbqPJLsod2ehKYxdWw3RCsoHVNlCGm_JUbHBRNXbsH6Lp4NH74FtWxFTLKvKluwzAMhRwXp4Nbm6fjYYbyyt9DTzfnDu4gtjq4940X9Jijh52jVv9ssDLpawKj8FT68daIdONc9Vk4lkBP4DP3SIcfDe0zB27OLjvDmueoQvyZw1SQ0Jx7l2IUbxoyJU4nr_AKYOESD8YG91JnqyzQ";

    #[test]
    fn rsa_as_pem_and_jwk() {
        let signature = URL_SAFE_NO_PAD.decode(RSA_SIGNATURE).unwrap();
        let set = format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"1","use":"sig","n":"{RSA_N}","e":"AQAB"}}]}}"#
        );
        for text in [RSA_PEM.to_owned(), set] {
            let keys = Keys::parse(text.as_bytes()).unwrap();
            let check = |algorithm, id, message: &[u8]| {
                keys.verify(algorithm, id, message, &signature).is_ok()
            };
            assert!(check("RS256", None, b"message"));
            assert!(check("RS256", Some("1"), b"message"));
            assert!(!check("RS256", None, b"massage"));
            for other in ["ES256", "EdDSA", "HS256", "none"] {
                assert!(!check(other, None, b"message"), "{other}");
            }
        }
    }

    #[test]
    fn certificates() {
        let random = SystemRandom::new();
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        let pem = params.self_signed(&pair).unwrap().pem();
        let own = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
            &random,
        )
        .unwrap();
        let signature = own.sign(&random, b"m").unwrap();
        let keys = Keys::parse(pem.as_bytes()).unwrap();
        assert!(keys.verify("ES256", None, b"m", signature.as_ref()).is_ok());
        let point = own.public_key().as_ref();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = format!(
            r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
            encode(&point[1..33]),
            encode(&point[33..])
        );
        let keys = Keys::parse(jwk.as_bytes()).unwrap();
        assert!(keys.verify("ES256", None, b"m", signature.as_ref()).is_ok());

        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let own = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pair.serialize_der()).unwrap();
        let keys = Keys::parse(pair.public_key_pem().as_bytes()).unwrap();
        let signature = own.sign(b"m");
        assert!(keys.verify("EdDSA", None, b"m", signature.as_ref()).is_ok());
    }

    #[test]
    fn broken_files() {
        let cut = pem_of("CERTIFICATE", &[0x30, 0x82, 0xff, 0xff, 0x30]);
        let odd = pem_of("PUBLIC KEY", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]);
        for text in [
            "",
            "{}",
            "x",
            r#"{"keys":[]}"#,
            r#"{"kty":"oct"}"#,
            &cut,
            &odd,
        ] {
            assert!(Keys::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn pem_of(kind: &str, der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    }
}
