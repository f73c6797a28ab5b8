//! Which cluster a key belongs to, and what the key is called there.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::cluster::Slot;
use crate::config::{ClusterConfig, ClusterKind, Mirror, ReadPolicy, Route, Routes};
use crate::ids::{ClusterId, RouteId};
use crate::resp::{ArgRange, RequestFrame, encode};
use crate::sort::sort_by_key;

/// The routes, ready to be asked about every key.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// By prefix, the longest first; then the catch-all route, whose prefix is empty.
    routes: Vec<Route>,
    case_insensitive: bool,
    read_policy: ReadPolicy,
    /// Whether any has one: else the catch-all route takes every key.
    has_prefixes: bool,
    has_mirrors: bool,
    has_rewrites: bool,
    /// For each cluster, whether it is one server that serves keys of all slots together.
    standalone: Vec<bool>,
}

/// Where one key lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) cluster: ClusterId,
    /// Its slot; the same for every key of a standalone server, which does not care.
    pub(crate) slot: Slot,
}

/// No route takes one of a command's keys.
#[derive(Debug)]
pub(crate) struct NoRoute;

/// Where the keys of one command live; used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// In the order of the keys.
    places: Vec<Place>,
    /// The route of each key.
    routes: Vec<RouteId>,
}

/// A command with its keys as the routes write them; used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    bytes: Vec<u8>,
    args: Vec<ArgRange>,
}

impl RouteTable {
    pub(crate) fn new(
        config: &Routes,
        clusters: &[ClusterConfig],
        read_policy: ReadPolicy,
    ) -> Self {
        let mut routes = config.prefixes.clone();
        sort_by_key(&mut routes, |route| Reverse(route.prefix.len()));
        routes.extend(config.catch_all.clone());
        Self {
            has_prefixes: routes.iter().any(|route| !route.prefix.is_empty()),
            has_mirrors: routes.iter().any(|route| !route.mirrors.is_empty()),
            has_rewrites: routes.iter().any(Route::rewrites),
            routes,
            case_insensitive: config.case_insensitive,
            read_policy,
            standalone: clusters.iter().map(|c| c.kind == ClusterKind::Standalone).collect(),
        }
    }

    /// Finds out where each of the keys at the positions `keys` lives. Returns the command as it is
    /// to be sent. `attributes` are those of the client's connection.
    pub(crate) fn place<'a>(
        &self,
        frame: RequestFrame<'a>,
        keys: &[u32],
        read_only: bool,
        attributes: &[Vec<u8>],
        places: &mut Places,
        rewritten: &'a mut Rewritten,
    ) -> Result<RequestFrame<'a>, NoRoute> {
        let Places { places, routes } = places;
        places.clear();
        routes.clear();
        for position in keys {
            let key = frame.arg(*position as usize).unwrap_or_default();
            let route = self.find(key).ok_or(NoRoute)?;
            routes.push(route);
            places.push(self.place_of(key, route, read_only));
        }
        if !(self.has_rewrites && routes.iter().any(|route| self.rewrites(*route))) {
            return Ok(frame);
        }
        self.rewrite(frame, keys, routes, attributes, rewritten);
        let frame = RequestFrame::new(&rewritten.bytes, &rewritten.args);
        for ((position, route), place) in keys.iter().zip(routes).zip(places) {
            let key = frame.arg(*position as usize).unwrap_or_default();
            *place = self.place_of(key, *route, read_only);
        }
        Ok(frame)
    }

    /// Where a key lives, which route takes it, and which nodes may answer a command about it;
    /// `None` if no route takes it. Only for routes that do not rewrite keys.
    #[inline]
    pub(crate) fn place_key(
        &self,
        key: &[u8],
        read_only: bool,
    ) -> Option<(Place, RouteId, ReadPolicy)> {
        let index = self.find(key)?;
        let route = self.get(index)?;
        let policy = self.policy_of(Some(route), read_only);
        Some((self.place_of(key, index, read_only), index, policy))
    }

    /// The place of a key, under the name by which nodes know it.
    #[inline]
    fn place_of(&self, key: &[u8], route: RouteId, read_only: bool) -> Place {
        let cluster = self.cluster(route, read_only);
        Place { cluster, slot: self.slot(cluster, key) }
    }

    #[inline]
    fn get(&self, route: RouteId) -> Option<&Route> {
        self.routes.get(route.position())
    }

    /// The route for commands that name no key.
    pub(crate) fn keyless(&self) -> Option<&Route> {
        self.routes.last().filter(|route| route.prefix.is_empty())
    }

    /// Which nodes may answer a command whose keys have been placed.
    pub(crate) fn policy(&self, places: &Places, read_only: bool) -> ReadPolicy {
        let route = self.route_of(places).and_then(|route| self.get(route));
        self.policy_of(route, read_only)
    }

    fn policy_of(&self, route: Option<&Route>, read_only: bool) -> ReadPolicy {
        if !read_only {
            return ReadPolicy::Master;
        }
        route.and_then(|route| route.read_policy).unwrap_or(self.read_policy)
    }

    /// Whether any route has mirrors.
    pub(crate) fn has_mirrors(&self) -> bool {
        self.has_mirrors
    }

    /// Whether any command may be answered by a replica.
    pub(crate) fn reads_from_replicas(&self) -> bool {
        let policies = self.routes.iter().map(|route| route.read_policy);
        policies.flatten().chain([self.read_policy]).any(ReadPolicy::reads_from_replicas)
    }

    /// The mirror number `index` of a route.
    pub(crate) fn mirror_of(&self, route: RouteId, index: usize) -> Option<Mirror> {
        self.get(route)?.mirrors.get(index).copied()
    }

    /// The route by which commands go that name no key.
    pub(crate) fn keyless_route(&self) -> Option<RouteId> {
        let last = self.routes.len().checked_sub(1)?;
        self.keyless().map(|_| RouteId::new(last))
    }

    /// The route by which a command goes: that of its first key.
    pub(crate) fn route_of(&self, places: &Places) -> Option<RouteId> {
        places.routes.first().copied()
    }

    /// The slot of a key in a cluster.
    #[inline]
    pub(crate) fn slot(&self, cluster: ClusterId, key: &[u8]) -> Slot {
        match self.standalone.get(cluster.position()) {
            Some(true) => Slot::default(),
            _ => Slot::of(key),
        }
    }

    #[inline]
    fn find(&self, key: &[u8]) -> Option<RouteId> {
        if self.has_prefixes {
            self.find_prefix(key)
        } else {
            (!self.routes.is_empty()).then_some(RouteId::default())
        }
    }

    fn find_prefix(&self, key: &[u8]) -> Option<RouteId> {
        let position = self.routes.iter().position(|route| {
            key.get(..route.prefix.len()).is_some_and(|start| {
                start == route.prefix
                    || self.case_insensitive && start.eq_ignore_ascii_case(&route.prefix)
            })
        });
        position.map(RouteId::new)
    }

    fn cluster(&self, route: RouteId, read_only: bool) -> ClusterId {
        let Some(route) = self.get(route) else { return ClusterId::default() };
        route.read_cluster.filter(|_| read_only).unwrap_or(route.cluster)
    }

    /// Whether some keys have another name at their node than clients know them by.
    pub(crate) fn rewrites_keys(&self) -> bool {
        self.has_rewrites
    }

    /// The clusters that serve clients, each once.
    pub(crate) fn clusters(&self) -> BTreeSet<ClusterId> {
        let of = |route: &Route| [Some(route.cluster), route.read_cluster];
        self.routes.iter().flat_map(of).flatten().collect()
    }

    fn rewrites(&self, route: RouteId) -> bool {
        self.get(route).is_some_and(Route::rewrites)
    }

    /// Writes the command with every key as its route has it.
    fn rewrite(
        &self,
        frame: RequestFrame<'_>,
        keys: &[u32],
        routes: &[RouteId],
        attributes: &[Vec<u8>],
        rewritten: &mut Rewritten,
    ) {
        let Rewritten { bytes, args } = rewritten;
        bytes.clear();
        args.clear();
        let mut key = Vec::new();
        encode::array_header(bytes, frame.len());
        for (position, arg) in (0_u32..).zip(frame.args()) {
            let which = keys.iter().position(|key| *key == position);
            let route = which.and_then(|which| self.get(*routes.get(which)?));
            let arg = match route {
                Some(route) => {
                    key.clear();
                    write_key(route, arg, attributes, &mut key);
                    &key[..]
                }
                None => arg,
            };
            encode::bulk(bytes, arg);
            let end = bytes.len().saturating_sub(2);
            let start = end.saturating_sub(arg.len());
            args.push(ArgRange { start: start as u32, len: arg.len() as u32 });
        }
    }
}

impl Place {
    /// A number that no other place has, in the same order.
    #[inline]
    pub(crate) fn number(self) -> u32 {
        (self.cluster.position() as u32) << 16 | u32::from(self.slot.number())
    }
}

impl Places {
    /// In the order of the keys.
    pub(crate) fn as_slice(&self) -> &[Place] {
        &self.places
    }

    /// The route of each key.
    pub(crate) fn routes(&self) -> &[RouteId] {
        &self.routes
    }
}

/// The one place where all keys live; `None` if there are several, or no key.
pub(crate) fn shared_place(mut places: impl Iterator<Item = Place>) -> Option<Place> {
    let first = places.next()?;
    places.all(|place| place == first).then_some(first)
}

/// What a route calls a key: its prefix taken off, then put where `%KEY%` stands.
fn write_key(route: &Route, key: &[u8], attributes: &[Vec<u8>], out: &mut Vec<u8>) {
    let start = if route.remove_prefix { route.prefix.len() } else { 0 };
    let key = key.get(start..).unwrap_or_default();
    match &route.key_formatter {
        Some(formatter) => formatter.write(key, attributes, out),
        None => out.extend_from_slice(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyFormatter;

    fn route(prefix: &str, cluster: usize) -> Route {
        let cluster = ClusterId::new(cluster);
        Route {
            prefix: prefix.into(),
            remove_prefix: false,
            key_formatter: None,
            cluster,
            read_cluster: None,
            read_policy: None,
            mirrors: Vec::new(),
        }
    }

    fn table(routes: &[Route], catch_all: Option<Route>) -> RouteTable {
        let routes = Routes { prefixes: routes.to_vec(), catch_all, case_insensitive: false };
        RouteTable::new(&routes, &[], ReadPolicy::default())
    }

    /// The command as sent and the clusters of its keys.
    fn place(table: &RouteTable, words: &[&str], keys: &[u32]) -> Option<(String, Vec<usize>)> {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        let mut parser = crate::resp::RequestParser::new();
        parser.parse(&bytes, &crate::resp::Limits::default()).unwrap();
        let mut places = Places::default();
        let mut rewritten = Rewritten::default();
        let sent = table
            .place(parser.frame(&bytes), keys, false, &[], &mut places, &mut rewritten)
            .ok()?;
        let words: Vec<_> = sent.args().map(|arg| String::from_utf8_lossy(arg)).collect();
        let words = words.join(" ");
        let mut again = Vec::new();
        (0..sent.len()).for_each(|index| again.extend_from_slice(sent.raw(index).unwrap()));
        assert!(sent.bytes().ends_with(&again), "raw elements make the frame");
        Some((words, places.as_slice().iter().map(|place| place.cluster.position()).collect()))
    }

    #[test]
    fn the_longest_prefix_wins_and_the_catch_all_takes_the_rest() {
        let table = table(&[route("a", 1), route("abc", 3), route("ab", 2)], Some(route("", 0)));
        for (key, cluster) in [("x", 0), ("a", 1), ("aXc", 1), ("ab", 2), ("abcd", 3), ("", 0)] {
            assert_eq!(place(&table, &["GET", key], &[1]).unwrap().1, [cluster], "{key}");
        }
        assert_eq!(place(&table, &["MGET", "abc", "z"], &[1, 2]).unwrap().1, [3, 0]);
    }

    #[test]
    fn without_a_catch_all_other_keys_go_nowhere() {
        let table = table(&[route("a", 0)], None);
        assert!(place(&table, &["GET", "b"], &[1]).is_none());
        assert!(place(&table, &["MGET", "a", "b"], &[1, 2]).is_none());
        assert!(table.keyless().is_none());
    }

    #[test]
    fn every_key_is_written_anew() {
        let removed = Route { remove_prefix: true, ..route("p:", 1) };
        let formatted = Route {
            remove_prefix: true,
            key_formatter: KeyFormatter::parse("<%KEY%|%KEY%>", &mut Vec::new()).ok(),
            ..route("f:", 1)
        };
        let table = table(&[removed, formatted], Some(route("", 0)));
        let (sent, _) =
            place(&table, &["MSET", "p:a", "p:v", "f:b", "w", "c", "x"], &[1, 3, 5]).unwrap();
        assert_eq!(sent, "MSET a p:v <b|b> w c x");
        let (sent, _) = place(&table, &["RENAME", "p:a", "p:a"], &[1, 2]).unwrap();
        assert_eq!(sent, "RENAME a a");
    }

    #[test]
    fn reads_may_go_to_another_cluster() {
        let table =
            table(&[], Some(Route { read_cluster: Some(ClusterId::new(5)), ..route("", 0) }));
        let route = RouteId::default();
        assert_eq!(table.cluster(route, true), ClusterId::new(5));
        assert_eq!(table.cluster(route, false), ClusterId::new(0));
    }

    #[test]
    fn prefixes_may_be_meant_in_any_case() {
        let mut table = table(&[route("Ab", 1)], Some(route("", 0)));
        assert_eq!(table.find(b"aBc"), Some(RouteId::new(1)));
        table.case_insensitive = true;
        assert_eq!(table.find(b"aBc"), Some(RouteId::new(0)));
    }
}
