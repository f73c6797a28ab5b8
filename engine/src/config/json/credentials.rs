//! How to log in to nodes: the words of Envoy's `RedisProtocolOptions`.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::{ConfigError, Credentials};
use super::Reader;
use super::data_source::DataSource;
use super::field::Field;
use crate::cluster::Address;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawCredentials {
    address: Option<RawAddress>,
    #[serde(alias = "authUsername")]
    auth_username: Option<DataSource>,
    #[serde(alias = "authPassword")]
    auth_password: Option<DataSource>,
}

/// `host:port`, or one of Envoy's messages.
enum RawAddress {
    Text(String),
    Message(RawSocketAddress),
}

/// Envoy's `SocketAddress`, or its `Address` that holds one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawSocketAddress {
    address: Option<String>,
    #[serde(alias = "portValue")]
    port_value: Option<u16>,
    #[serde(alias = "socketAddress")]
    socket_address: Option<Box<Self>>,
}

/// Those for one node each, then those for all.
pub(super) fn check(
    at: &Field,
    by_node: Option<Vec<RawCredentials>>,
    auth_username: Option<DataSource>,
    auth_password: Option<DataSource>,
    reader: &Reader<'_>,
) -> Result<Vec<Credentials>, ConfigError> {
    let mut all = at.member("credentials").each(by_node, |at, credentials| {
        let address = at.member("address");
        let address = address.required(credentials.address)?.check(&address)?;
        let RawCredentials { auth_username, auth_password, .. } = credentials;
        login(at, Some(address), auth_username, auth_password, reader)?
            .ok_or_else(|| at.member("auth_password").refuse("is required"))
    })?;
    all.extend(login(at, None, auth_username, auth_password, reader)?);
    Ok(all)
}

fn login(
    at: &Field,
    address: Option<Address>,
    username: Option<DataSource>,
    password: Option<DataSource>,
    reader: &Reader<'_>,
) -> Result<Option<Credentials>, ConfigError> {
    let Some(password) = password else {
        return match username {
            Some(_) => Err(at.member("auth_username").refuse("needs auth_password")),
            None => Ok(None),
        };
    };
    let username = match username {
        Some(username) => Some(username.read(&at.member("auth_username"), reader)?),
        None => None,
    };
    let password = password.read(&at.member("auth_password"), reader)?;
    Ok(Some(Credentials { address, username, password }))
}

impl RawAddress {
    fn check(self, at: &Field) -> Result<Address, ConfigError> {
        match self {
            Self::Text(text) => {
                Address::parse(&text).ok_or_else(|| at.refuse("is not host:port or [IPv6]:port"))
            }
            Self::Message(message) => message.check(at),
        }
    }
}

impl RawSocketAddress {
    fn check(self, at: &Field) -> Result<Address, ConfigError> {
        if let Some(inner) = self.socket_address {
            if self.address.is_some() || self.port_value.is_some() {
                return Err(at.refuse("has both a socket_address and its words"));
            }
            return inner.check(&at.member("socket_address"));
        }
        let host = at.member("address").required(self.address)?;
        let port = at.member("port_value").required(self.port_value)?;
        Address::new(&host, port).ok_or_else(|| at.refuse("is not a host and a port"))
    }
}

impl<'de> Deserialize<'de> for RawAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrMessage;

        impl<'de> Visitor<'de> for TextOrMessage {
            type Value = RawAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("host:port or a socket_address")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawAddress, E> {
                Ok(RawAddress::Text(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<RawAddress, M::Error> {
                RawSocketAddress::deserialize(MapAccessDeserializer::new(map))
                    .map(RawAddress::Message)
            }
        }

        deserializer.deserialize_any(TextOrMessage)
    }
}
