//! JSON web tokens (RFC 7519) with the claims of Docker's token specification.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};

use super::keys::Keys;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 64 << 10;

/// Clocks may differ by this many seconds.
const LEEWAY: i64 = 60;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(rename = "iss", default)]
    pub(crate) issuer: String,
    #[serde(rename = "sub", default)]
    pub(crate) subject: String,
    #[serde(rename = "aud", default, deserialize_with = "one_or_many")]
    pub(crate) audience: Vec<String>,
    /// Seconds since 1970, as all times.
    #[serde(rename = "exp")]
    pub(crate) expires: i64,
    #[serde(rename = "nbf", default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<i64>,
    #[serde(rename = "iat", default, skip_serializing_if = "Option::is_none")]
    pub(crate) issued: Option<i64>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) access: Vec<Access>,
    /// In refresh tokens of ours: of the user's entry when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) actions: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<serde::de::IgnoredAny>,
}

fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Form>::deserialize(input)? {
        None => Vec::new(),
        Some(Form::One(one)) => vec![one],
        Some(Form::Many(many)) => many,
    })
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The claims of a token that is signed by one of the keys, from this issuer,
/// for this service, and valid now.
pub(crate) fn verify(
    token: &str,
    keys: &Keys,
    issuer: &str,
    service: &str,
) -> Result<Claims, String> {
    if token.len() > MAX_TOKEN {
        return Err("it is too long".to_owned());
    }
    let (signed, signature) = token.rsplit_once('.').ok_or("it is no JSON web token")?;
    let (header, payload) = signed.split_once('.').ok_or("it is no JSON web token")?;
    let decode = |text: &str| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| "it is not base64".to_owned())
    };
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|error| error.to_string())?;
    if header.crit.is_some() {
        return Err("it has critical extensions".to_owned());
    }
    // The algorithm must be that of the key: neither "none" nor one that takes
    // a public key for a secret (CVE-2015-9235).
    keys.verify(
        &header.alg,
        header.kid.as_deref(),
        signed.as_bytes(),
        &decode(signature)?,
    )?;
    let claims: Claims =
        serde_json::from_slice(&decode(payload)?).map_err(|error| error.to_string())?;
    if claims.issuer != issuer {
        return Err(format!("it is from issuer {:?}", claims.issuer));
    }
    if !claims.is_for(service) {
        return Err(format!("it is for service {:?}", claims.audience));
    }
    let now = now();
    if claims.expires.saturating_add(LEEWAY) <= now {
        return Err("it has expired".to_owned());
    }
    if claims
        .not_before
        .is_some_and(|start| start.saturating_sub(LEEWAY) > now)
    {
        return Err("it is not valid yet".to_owned());
    }
    Ok(claims)
}

/// A token signed with Ed25519.
pub(crate) fn sign(claims: &Claims, key: &ring::signature::Ed25519KeyPair) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let payload = serde_json::to_vec(claims).unwrap_or_default();
    let signed = format!(
        "{}.{}",
        encode(br#"{"typ":"JWT","alg":"EdDSA"}"#),
        encode(&payload)
    );
    let signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            issuer: "i".to_owned(),
            audience: vec!["s".to_owned()],
            expires: now() + 10,
            ..Claims::default()
        }
    }

    #[test]
    fn only_what_is_signed_and_valid() {
        let keys = Keys::of_ed25519(key().public_key().as_ref());
        let check = |token: &str| verify(token, &keys, "i", "s");
        let token = sign(&claims(), &key());
        assert_eq!(check(&token), Ok(claims()));
        let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
        assert!(check(&sign(&claims(), &other)).is_err());
        for wrong in [
            Claims {
                issuer: "x".to_owned(),
                ..claims()
            },
            Claims {
                audience: vec![],
                ..claims()
            },
            Claims {
                expires: now() - 61,
                ..claims()
            },
            Claims {
                not_before: Some(now() + 70),
                ..claims()
            },
        ] {
            assert!(check(&sign(&wrong, &key())).is_err(), "{wrong:?}");
        }
        let payload = token.split('.').nth(1).unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        for bad in [
            format!("{none}.{payload}."),
            format!("{hmac}.{payload}.AAAA"),
            token.replace('.', ""),
            format!("{token}x"),
            String::new(),
            ".".repeat(MAX_TOKEN + 1),
        ] {
            assert!(check(&bad).is_err());
        }
    }
}
