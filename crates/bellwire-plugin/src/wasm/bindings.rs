//! What `handler.wit` says, in Rust, and what components can import.

use super::instance::Inside;
use wasmtime::component::{HasSelf, Linker};

wasmtime::component::bindgen!({
    world: "filtering-handler",
    path: "src/wasm/handler.wit",
    imports: {
        "bellwire:handler/host.fetch": async,
        "bellwire:handler/host.emit": trappable,
    },
    exports: { default: async },
});

pub(super) use self::FilteringHandlerPre as Filtering;
pub(super) use plain::HandlerPre as Plain;

/// The same for components that only handle.
mod plain {
    wasmtime::component::bindgen!({
        world: "handler",
        path: "src/wasm/handler.wit",
        exports: { default: async },
        with: {
            "bellwire:handler/types": super::bellwire::handler::types,
            "bellwire:handler/host": super::bellwire::handler::host,
        },
    });
}

/// Everything that there is to import.
pub(super) fn link(linker: &mut Linker<Inside>) -> wasmtime::Result<()> {
    bellwire::handler::host::add_to_linker::<Inside, HasSelf<Inside>>(linker, |inside| inside)?;
    wasmtime_wasi::p2::add_to_linker_async(linker)
}
