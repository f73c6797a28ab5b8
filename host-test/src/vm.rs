//! Virtual machines: how one is loaded, and what it holds.

use std::{collections::VecDeque, fmt, path::Path};

use wasmtime::{
    Cache, Engine, ExternType, Instance, Memory, Module, Store, StoreContextMut, TypedFunc,
    WasmParams, WasmResults,
};

use crate::{
    calls::{self, metrics::Metrics, queue::Queues},
    config::Role,
    random::Random,
    state::{Contexts, Deferred, Direction, State},
};

/// A compiled .wasm file. Cloning is cheap; many hosts can run one.
#[derive(Clone)]
pub struct Wasm {
    engine: Engine,
    module: Module,
}

impl Wasm {
    /// Reads and compiles a file.
    ///
    /// # Errors
    ///
    /// [`StartError::Unreadable`] or [`StartError::NotAModule`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, StartError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| StartError::Unreadable {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        Self::from_bytes(&bytes)
    }

    /// Compiles a module in the binary format.
    ///
    /// # Errors
    ///
    /// [`StartError::NotAModule`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StartError> {
        let not_a_module = |error: wasmtime::Error| StartError::NotAModule(format!("{error:#}"));
        let mut config = wasmtime::Config::new();
        // Compiled code is kept between runs where there is a directory for it.
        config.cache(Cache::from_file(None).ok());
        let engine = Engine::new(&config).map_err(not_a_module)?;
        let module = Module::new(&engine, bytes).map_err(not_a_module)?;
        Ok(Self { engine, module })
    }

    /// A place for VMs that run this.
    pub(crate) fn store(&self, state: State) -> Store<State> {
        Store::new(&self.engine, state)
    }
}

/// Why a host did not start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StartError {
    /// The plugin's `proxy_on_configure` answered no; it has logged why.
    ConfigurationRejected(Role),
    /// No `proxy_on_memory_allocate` or `malloc`, or an export of the wrong type.
    Export {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The module does not instantiate: its memory is above the limit, or its start function
    /// trapped.
    Instantiation(String),
    /// The bytes are not a WebAssembly module.
    NotAModule(String),
    /// The plugin trapped before it was ready.
    Trapped(Role),
    /// The plugin imports what this host does not have: `module::name`, each.
    UnknownImports(Vec<String>),
    /// The file cannot be read.
    Unreadable {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// The plugin's `proxy_on_vm_start` answered no.
    VmStartRejected(Role),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigurationRejected(role) => write!(
                f,
                "the plugin `{}` rejected its configuration; its log says why",
                role.root_id()
            ),
            Self::Export { name, why } => write!(f, "the plugin's export `{name}`: {why}"),
            Self::Instantiation(why) => write!(f, "the plugin does not load: {why}"),
            Self::NotAModule(why) => write!(f, "not a WebAssembly module: {why}"),
            Self::Trapped(role) => {
                write!(f, "the plugin `{}` crashed while starting", role.root_id())
            }
            Self::UnknownImports(names) => {
                write!(f, "the plugin imports what this host does not have: {}", names.join(", "))
            }
            Self::Unreadable { path, why } => write!(f, "cannot read {path}: {why}"),
            Self::VmStartRejected(role) => {
                write!(f, "the plugin `{}` refused to start", role.root_id())
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A virtual machine, and what it has used. It runs as soon as it has exports.
pub(crate) struct Vm {
    pub(crate) contexts: Contexts,
    /// What waits for the end of a callback, in order.
    pub(crate) deferred: VecDeque<Deferred>,
    pub(crate) metrics: Metrics,
    pub(crate) queues: Queues,
    pub(crate) random: Random,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) exports: Option<Exports>,
    /// It trapped, and is never entered again.
    pub(crate) failed: bool,
    /// How often it was entered, not counting its allocator.
    pub(crate) calls: u64,
    /// How often the host asked it for memory.
    pub(crate) allocations: u64,
}

impl Vm {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            contexts: Contexts::default(),
            deferred: VecDeque::new(),
            metrics: Metrics::default(),
            queues: Queues::default(),
            random: Random::new(seed),
            memory: None,
            allocate: None,
            exports: None,
            failed: false,
            calls: 0,
            allocations: 0,
        }
    }
}

/// Makes an instance of the module, which becomes the VM that plays `role`.
pub(crate) fn instantiate(
    wasm: &Wasm,
    role: Role,
    mut store: StoreContextMut<'_, State>,
) -> Result<(), StartError> {
    let instantiation = |error: wasmtime::Error| StartError::Instantiation(format!("{error:#}"));
    let linker = calls::linker(&wasm.engine).map_err(instantiation)?;
    let unknown: Vec<_> = wasm
        .module
        .imports()
        .filter(|import| linker.get_by_import(&mut store, import).is_none())
        .map(|import| format!("{}::{}", import.module(), import.name()))
        .collect();
    if !unknown.is_empty() {
        return Err(StartError::UnknownImports(unknown));
    }
    if !matches!(wasm.module.get_export(ABI_VERSION), Some(ExternType::Func(_))) {
        return Err(missing(ABI_VERSION));
    }
    let instance = linker.instantiate(&mut store, &wasm.module).map_err(instantiation)?;
    let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| missing("memory"))?;
    let mut allocate = None;
    for name in ["malloc", "proxy_on_memory_allocate"] {
        allocate = allocate.or(export(&mut store, &instance, name)?.function);
    }
    let allocate = allocate.ok_or_else(|| missing("proxy_on_memory_allocate"))?;
    let exports = Exports::find(&mut store, &instance)?;
    let vm = store.data_mut().vm_mut(role);
    (vm.memory, vm.allocate, vm.exports) = (Some(memory), Some(allocate), Some(exports));
    Ok(())
}

/// A function that the plugin may have.
pub(crate) struct Export<P, R> {
    pub(crate) name: &'static str,
    pub(crate) function: Option<TypedFunc<P, R>>,
}

/// A plugin's callbacks. What is not there is not entered: Envoy's default applies.
pub(crate) struct Exports {
    pub(crate) initialize: Export<(), ()>,
    pub(crate) start: Export<(), ()>,
    pub(crate) main: Export<(u32, u32), u32>,
    pub(crate) on_context_create: Export<(u32, u32), ()>,
    pub(crate) on_vm_start: Export<(u32, u32), u32>,
    pub(crate) on_configure: Export<(u32, u32), u32>,
    pub(crate) on_tick: Export<u32, ()>,
    pub(crate) on_queue_ready: Export<(u32, u32), ()>,
    pub(crate) on_new_connection: Export<u32, u32>,
    pub(crate) on_downstream_data: Export<(u32, u32, u32), u32>,
    pub(crate) on_downstream_connection_close: Export<(u32, u32), ()>,
    pub(crate) on_grpc_receive_initial_metadata: Export<(u32, u32, u32), ()>,
    pub(crate) on_grpc_receive: Export<(u32, u32, u32), ()>,
    pub(crate) on_grpc_receive_trailing_metadata: Export<(u32, u32, u32), ()>,
    pub(crate) on_grpc_close: Export<(u32, u32, u32), ()>,
    pub(crate) on_request_headers: Export<(u32, u32, u32), u32>,
    on_request_body: Export<(u32, u32, u32), u32>,
    pub(crate) on_response_headers: Export<(u32, u32, u32), u32>,
    on_response_body: Export<(u32, u32, u32), u32>,
    pub(crate) on_done: Export<u32, u32>,
    pub(crate) on_log: Export<u32, ()>,
    pub(crate) on_delete: Export<u32, ()>,
}

impl Exports {
    pub(crate) fn on_body(&self, direction: Direction) -> &Export<(u32, u32, u32), u32> {
        match direction {
            Direction::Request => &self.on_request_body,
            Direction::Response => &self.on_response_body,
        }
    }

    fn find(
        store: &mut StoreContextMut<'_, State>,
        instance: &Instance,
    ) -> Result<Self, StartError> {
        Ok(Self {
            initialize: export(store, instance, "_initialize")?,
            start: export(store, instance, "_start")?,
            main: export(store, instance, "main")?,
            on_context_create: export(store, instance, "proxy_on_context_create")?,
            on_vm_start: export(store, instance, "proxy_on_vm_start")?,
            on_configure: export(store, instance, "proxy_on_configure")?,
            on_tick: export(store, instance, "proxy_on_tick")?,
            on_queue_ready: export(store, instance, "proxy_on_queue_ready")?,
            on_new_connection: export(store, instance, "proxy_on_new_connection")?,
            on_downstream_data: export(store, instance, "proxy_on_downstream_data")?,
            on_downstream_connection_close: export(
                store,
                instance,
                "proxy_on_downstream_connection_close",
            )?,
            on_grpc_receive_initial_metadata: export(
                store,
                instance,
                "proxy_on_grpc_receive_initial_metadata",
            )?,
            on_grpc_receive: export(store, instance, "proxy_on_grpc_receive")?,
            on_grpc_receive_trailing_metadata: export(
                store,
                instance,
                "proxy_on_grpc_receive_trailing_metadata",
            )?,
            on_grpc_close: export(store, instance, "proxy_on_grpc_close")?,
            on_request_headers: export(store, instance, "proxy_on_request_headers")?,
            on_request_body: export(store, instance, "proxy_on_request_body")?,
            on_response_headers: export(store, instance, "proxy_on_response_headers")?,
            on_response_body: export(store, instance, "proxy_on_response_body")?,
            on_done: export(store, instance, "proxy_on_done")?,
            on_log: export(store, instance, "proxy_on_log")?,
            on_delete: export(store, instance, "proxy_on_delete")?,
        })
    }
}

fn export<P: WasmParams, R: WasmResults>(
    store: &mut StoreContextMut<'_, State>,
    instance: &Instance,
    name: &'static str,
) -> Result<Export<P, R>, StartError> {
    let Some(function) = instance.get_func(&mut *store, name) else {
        return Ok(Export { name, function: None });
    };
    let typed = function.typed(&*store);
    let function = typed
        .map_err(|error| StartError::Export { name: name.into(), why: format!("{error:#}") })?;
    Ok(Export { name, function: Some(function) })
}

fn missing(name: &str) -> StartError {
    StartError::Export { name: name.into(), why: "missing".into() }
}

const ABI_VERSION: &str = "proxy_abi_version_0_2_1";
