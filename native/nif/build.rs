//! Keeps the library in memory for as long as the VM runs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The VM must never unmap the library, not even when the Erlang module is purged: the thread
    // that frees memory runs its code.
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if ["linux", "freebsd", "netbsd", "openbsd", "dragonfly"].contains(&os.as_str()) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    // The functions of the VM are resolved when the VM loads the library.
    if os == "macos" {
        println!("cargo:rustc-cdylib-link-arg=-undefined");
        println!("cargo:rustc-cdylib-link-arg=dynamic_lookup");
    }
}
