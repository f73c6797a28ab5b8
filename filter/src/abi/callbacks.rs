//! What the host calls in the module.

/// The callbacks that Slotmesh wants. The host enters the VM for each that is exported, so there is
/// none that is not needed.
pub(crate) trait Callbacks {
    /// The VM starts.
    fn on_vm_start();

    /// A root context (whose parent is 0) or a stream's has been made.
    fn on_context_create(context: u32, parent: u32);

    /// A plugin is configured; `false` refuses.
    fn on_configure(root: u32, configuration_size: usize) -> bool;

    /// The timer of a root context has fired.
    fn on_tick(root: u32);

    /// What was put into a queue of a root context's can be taken out.
    fn on_queue_ready(root: u32);

    /// A client has sent bytes: so many wait in its buffer. They stay there, and no filter after
    /// this one sees them until the stream is told to go on.
    fn on_downstream_data(context: u32, size: usize);

    /// A client has gone, or has been closed.
    fn on_downstream_close(context: u32);

    /// A connection to a node has been established.
    fn on_upstream_open(root: u32, token: u32);

    /// A node has sent a gRPC message.
    fn on_upstream_data(root: u32, token: u32, size: usize);

    /// A connection to a node has ended, or could not be established.
    fn on_upstream_close(root: u32, token: u32, status: u32);

    /// The tunnel: a connection to a node is being opened.
    fn on_request_headers(context: u32);

    /// The tunnel: bytes to a node.
    fn on_request_body(context: u32, size: usize);

    /// The tunnel: bytes from a node; `end` if they are the last.
    fn on_response_body(context: u32, size: usize, end: bool) -> BodyAction;

    /// A context has ended.
    fn on_delete(context: u32);
}

/// What becomes of a piece of a body after its callback: a `FilterDataStatus` of the ABI.
#[derive(Clone, Copy)]
pub(crate) enum BodyAction {
    /// The next filter gets it.
    Continue = 0,
    /// No filter gets it (`StopIterationNoBuffer`). The host does not empty the buffer: what is
    /// left in it comes again with the next piece. The end of the stream is kept back too.
    Drop = 3,
}

/// Exports the functions that the host calls, for a type that implements [`Callbacks`].
macro_rules! export_callbacks {
    ($module:ty) => {
        #[allow(unsafe_code, reason = "the host finds exported functions by their names")]
        mod exports {
            use $crate::abi::Callbacks;

            type Module = $module;

            /// What a stream callback returns: go on with the next filter.
            const CONTINUE: u32 = 0;
            /// Stop here until told to go on.
            const PAUSE: u32 = 1;

            #[unsafe(no_mangle)]
            extern "C" fn proxy_abi_version_0_2_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_vm_start(_root: u32, _configuration_size: usize) -> u32 {
                Module::on_vm_start();
                1
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
                Module::on_context_create(context, parent);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_configure(root: u32, configuration_size: usize) -> u32 {
                u32::from(Module::on_configure(root, configuration_size))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_tick(root: u32) {
                Module::on_tick(root);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_queue_ready(root: u32, _queue: u32) {
                Module::on_queue_ready(root);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_downstream_data(context: u32, size: usize, _end: u32) -> u32 {
                Module::on_downstream_data(context, size);
                PAUSE
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_downstream_connection_close(context: u32, _peer: u32) {
                Module::on_downstream_close(context);
            }

            /// Envoy's TCP upstream makes up response headers once it is connected. For a
            /// connection that was refused there are none.
            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_grpc_receive_initial_metadata(
                root: u32,
                token: u32,
                headers: u32,
            ) {
                if headers > 0 {
                    Module::on_upstream_open(root, token);
                }
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
                Module::on_upstream_data(root, token, size);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_grpc_close(root: u32, token: u32, status: u32) {
                Module::on_upstream_close(root, token, status);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_headers(context: u32, _headers: u32, _end: u32) -> u32 {
                Module::on_request_headers(context);
                CONTINUE
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_body(context: u32, size: usize, _end: u32) -> u32 {
                Module::on_request_body(context, size);
                CONTINUE
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_body(context: u32, size: usize, end: u32) -> u32 {
                Module::on_response_body(context, size, end != 0) as u32
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_delete(context: u32) {
                Module::on_delete(context);
            }
        }
    };
}

pub(crate) use export_callbacks;
