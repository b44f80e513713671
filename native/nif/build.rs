//! Keeps the library in memory for as long as the VM runs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The thread that frees memory runs code of this library, so the VM must never unmap it: not when the Erlang module
    // is purged either.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    // The functions of the VM are found when the VM loads the library.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!("cargo:rustc-cdylib-link-arg=-undefined");
        println!("cargo:rustc-cdylib-link-arg=dynamic_lookup");
    }
}
