//! Which code answers which method, and where it runs.

use crate::cost::{Cost, Execution, Room};
use crate::failure::Failure;
use crate::handler::{Handler, Request};
use crate::request::OwnedRequest;
use crate::responder::Responder;
use crate::sink::Sink;
use ginnel_wire::{MethodHash, Reply};
use std::borrow::Cow;
use std::fmt;

/// What a server says of its interface in the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its number. Clients that ask for another one are refused; 0 if it has none.
    pub id: u64,
    /// Hash of its methods and types; 0 if that is not told. Clients that have another one ask for the methods' hashes.
    pub schema_hash: u64,
    /// Its name, for people.
    pub name: Cow<'static, str>,
}

impl Interface {
    /// An interface that says its name and nothing else: any client may come.
    #[must_use]
    pub fn named(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

pub(crate) enum Serve {
    Handler(Box<dyn Handler>),
    OneWay(Box<dyn Handler>),
    Responder(Box<dyn Fn(OwnedRequest, Responder) + Send + Sync>),
    Stream(Box<dyn Fn(OwnedRequest, Sink) + Send + Sync>),
}

/// One method of a server.
pub(crate) struct Method {
    pub(crate) id: u16,
    pub(crate) name: Cow<'static, str>,
    pub(crate) serve: Serve,
    pub(crate) execution: Option<Execution>,
    pub(crate) cost: Cost,
    pub(crate) room: Room,
    hash: u64,
}

impl Method {
    /// What its calls get.
    pub(crate) fn reply(&self) -> Reply {
        match self.serve {
            Serve::Handler(_) | Serve::Responder(_) => Reply::One,
            Serve::OneWay(_) => Reply::None,
            Serve::Stream(_) => Reply::Stream,
        }
    }
}

/// The methods of a server: each has a number, a name, and one of four forms.
///
/// | form | gets | answers |
/// |---|---|---|
/// | [`handler`](Self::handler) | `&Request`, a buffer | before it returns |
/// | [`responder`](Self::responder) | [`OwnedRequest`], [`Responder`] | when and where it likes |
/// | [`stream`](Self::stream) | [`OwnedRequest`], [`Sink`] | any number of items, then the end |
/// | [`one_way`](Self::one_way) | `&Request` | never |
///
/// Clients of layout 1 call the first two; the others are UNSUPPORTED there, because that layout has neither. A client
/// of layout 2 that calls a method in another form than it has is told the same.
///
/// ```
/// use ginnel_service::{Failure, Interface, OwnedRequest, Request, Responder, Router};
///
/// let router = Router::new(Interface::named("shout"))
///     .handler(1, "upper", |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
///         response.extend(request.payload.to_ascii_uppercase());
///         Ok(())
///     })
///     .responder(2, "later", |request: OwnedRequest, responder: Responder| {
///         std::thread::spawn(move || responder.respond(request.payload().to_vec()));
///     });
/// assert_eq!(router.methods().map(|(id, name)| format!("{id} {name}")).collect::<Vec<_>>(), ["1 upper", "2 later"]);
/// ```
#[must_use = "a router serves nothing until it is given to a server"]
pub struct Router {
    interface: Interface,
    /// By number, ascending.
    methods: Vec<Method>,
}

impl Router {
    /// An interface without methods.
    pub fn new(interface: Interface) -> Self {
        Self { interface, methods: Vec::new() }
    }

    /// A method that is answered before its handler returns. It runs on the reactor's thread or on the executor, as
    /// [`execution`](Self::execution) says. A batch is answered item by item.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn handler(self, id: u16, name: impl Into<Cow<'static, str>>, handler: impl Handler) -> Self {
        self.add(id, name.into(), Serve::Handler(Box::new(handler)))
    }

    /// A method whose answer is given by the [`Responder`], now or later, from any thread. A batch comes whole
    /// ([`OwnedRequest::batch`]). A panic of `begin` answers [`Failure::Internal`] if the responder was not passed on.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn responder<F>(self, id: u16, name: impl Into<Cow<'static, str>>, begin: F) -> Self
    where
        F: Fn(OwnedRequest, Responder) + Send + Sync + 'static,
    {
        self.add(id, name.into(), Serve::Responder(Box::new(begin)))
    }

    /// A method that answers with a stream of items, given by the [`Sink`], which may be kept and passed on as a
    /// responder is. Runs on the executor unless [`Execution::Inline`] is set, because [`Sink::item`] blocks.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn stream<F>(self, id: u16, name: impl Into<Cow<'static, str>>, begin: F) -> Self
    where
        F: Fn(OwnedRequest, Sink) + Send + Sync + 'static,
    {
        self.add(id, name.into(), Serve::Stream(Box::new(begin)))
    }

    /// A method that nobody is answered for. Its failures are counted, and told to nobody. It is executed also if its
    /// client leaves meanwhile.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn one_way<F>(self, id: u16, name: impl Into<Cow<'static, str>>, handler: F) -> Self
    where
        F: Fn(&Request<'_>) -> Result<(), Failure> + Send + Sync + 'static,
    {
        let handler = move |request: &Request<'_>, _: &mut Vec<u8>| handler(request);
        self.add(id, name.into(), Serve::OneWay(Box::new(handler)))
    }

    /// Says where a method runs, whatever [`ServerOptions::execution`](crate::ServerOptions::execution) says.
    ///
    /// # Panics
    /// If there is no such method.
    pub fn execution(mut self, id: u16, execution: Execution) -> Self {
        self.method_mut(id).execution = Some(execution);
        self
    }

    /// The hash of a method's types and form, by which clients with another
    /// [`schema_hash`](Interface::schema_hash) know whether they can call it. 0 where it is not said.
    ///
    /// # Panics
    /// If there is no such method.
    pub fn hash(mut self, id: u16, hash: u64) -> Self {
        self.method_mut(id).hash = hash;
        self
    }

    /// What it says of itself.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Number and name of each method, by number.
    pub fn methods(&self) -> impl Iterator<Item = (u16, &str)> {
        self.methods.iter().map(|method| (method.id, &*method.name))
    }

    fn place(&self, id: u16) -> Result<usize, usize> {
        self.methods.binary_search_by_key(&id, |method| method.id)
    }

    fn add(mut self, id: u16, name: Cow<'static, str>, serve: Serve) -> Self {
        let method = Method { id, name, serve, execution: None, cost: Cost::new(), room: Room::new(), hash: 0 };
        match self.place(id) {
            Ok(at) => panic!("method {id} is {:?} already, and cannot be {:?}", self.methods[at].name, method.name),
            Err(at) => self.methods.insert(at, method),
        }
        self
    }

    fn method_mut(&mut self, id: u16) -> &mut Method {
        match self.place(id) {
            Ok(at) => &mut self.methods[at],
            Err(_) => panic!("there is no method {id}"),
        }
    }

    pub(crate) fn find(&self, id: u16) -> Option<&Method> {
        match &self.methods[..] {
            [only] if only.id == id => Some(only),
            methods => self.place(id).ok().map(|at| &methods[at]),
        }
    }

    /// What METHODS is answered with: those of `asked` that there are; all if none are asked for.
    pub(crate) fn hashes(&self, asked: &[u16]) -> Vec<MethodHash> {
        let hash = |method: &Method| MethodHash { method: method.id, reply: method.reply(), hash: method.hash };
        if asked.is_empty() {
            return self.methods.iter().map(hash).collect();
        }
        asked.iter().filter_map(|id| self.find(*id)).map(hash).collect()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = self.methods().collect::<Vec<_>>();
        f.debug_struct("Router").field("interface", &self.interface).field("methods", &methods).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &Request<'_>, _: &mut Vec<u8>) -> Result<(), Failure> {
        Ok(())
    }

    fn router() -> Router {
        Router::new(Interface::named("three"))
            .stream(7, "items", |_, sink| sink.finish())
            .handler(300, "answer", nothing)
            .one_way(2, "note", |_| Ok(()))
            .hash(7, 77)
    }

    #[test]
    fn methods_are_found_by_number_and_told_with_form_and_hash() {
        let router = router();
        assert_eq!(router.methods().collect::<Vec<_>>(), [(2, "note"), (7, "items"), (300, "answer")]);
        assert_eq!(router.find(300).map(|method| &*method.name), Some("answer"));
        assert!(router.find(3).is_none());
        let told = |asked: &[u16]| {
            let hashes = router.hashes(asked);
            hashes.into_iter().map(|method| (method.method, method.reply, method.hash)).collect::<Vec<_>>()
        };
        assert_eq!(told(&[]), [(2, Reply::None, 0), (7, Reply::Stream, 77), (300, Reply::One, 0)]);
        assert_eq!(told(&[1, 7]), [(7, Reply::Stream, 77)]);
    }

    #[test]
    #[should_panic(expected = "method 7 is \"items\" already")]
    fn a_number_is_used_once() {
        let _ = router().handler(7, "again", nothing);
    }
}
