//! The engine's side of the sockets: plain descriptors, to be driven by any
//! event loop.
