//! Handles: references to Rust values. A value lives for as long as a process has a handle of it.
//!
//! The VM identifies the handles of a library by their resource *type*, and makes a new type
//! whenever the Erlang module is loaded, while handles of earlier types are still in use. So a
//! handle is looked up by all types that handles were made of.
//!
//! The VM forgets a type with its last object, and might use the address again for a type of
//! another library. So of each type one more object is made, which is never released and keeps the
//! type. It also keeps the library loaded, where the linker was not told to.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use parking_lot::RwLock;

use proctab_terms::vm::{
    c_void, enif_alloc_resource, enif_get_resource, enif_make_resource, enif_open_resource_type,
    enif_release_resource, ErlNifEnv, ErlNifResourceFlags, ErlNifResourceType,
};
use proctab_terms::{Call, Fault, Term};

/// The handles of one type of value.
pub struct Handles<T> {
    name: &'static CStr,
    /// The resource type of new handles.
    newest: AtomicPtr<ErlNifResourceType>,
    /// All resource types that handles were made of; an object of each is never released.
    known: RwLock<Vec<Type>>,
    values: PhantomData<fn(T) -> T>,
}

/// A resource type that the VM does not forget.
#[derive(Clone, Copy, PartialEq)]
struct Type(*const ErlNifResourceType);

// SAFETY: only the VM reads or writes what it points to, and any thread may call the VM.
unsafe impl Send for Type {}
// SAFETY: as above.
unsafe impl Sync for Type {}

impl<T: Send + Sync + 'static> Handles<T> {
    /// Returns a collection of handles whose resource types have this name.
    pub const fn new(name: &'static CStr) -> Self {
        // The VM aligns objects to words.
        const { assert!(align_of::<T>() <= align_of::<usize>()) };
        Handles {
            name,
            newest: AtomicPtr::new(ptr::null_mut()),
            known: RwLock::new(Vec::new()),
            values: PhantomData,
        }
    }

    /// Makes the resource type of new handles. Returns `false` if the VM refuses.
    ///
    /// # Safety
    /// The module is being loaded, in this environment.
    pub unsafe fn open(&self, env: rustler::Env<'_>) -> bool {
        let create = ErlNifResourceFlags::ERL_NIF_RT_CREATE;
        let mut tried = create;
        // SAFETY: the caller vouches for the environment. The name is a C string, and the
        // destructor is for objects of this type.
        let opened = unsafe {
            enif_open_resource_type(
                env.as_c_arg(),
                ptr::null(),
                self.name.as_ptr(),
                Some(destroy::<T>),
                create,
                &mut tried,
            )
        };
        self.newest.store(opened.cast_mut(), Ordering::Release);
        !opened.is_null()
    }

    /// Makes a handle of a value.
    pub fn make<'c>(&self, call: Call<'c>, value: T) -> Term<'c> {
        let newest = self.newest_kept();
        // SAFETY: the object has the size of a value, which is written before anybody else has the
        // object. It is released once: from then on the term keeps it.
        unsafe {
            let object = enif_alloc_resource(newest.0, size_of::<T>());
            object.cast::<T>().write(value);
            let handle = enif_make_resource(call.env(), object);
            enif_release_resource(object);
            Term::from_raw(handle)
        }
    }

    /// Returns the value of a handle. Fails if the term is not one.
    pub fn get<'c>(&self, call: Call<'c>, handle: Term<'c>) -> Result<&'c T, Fault> {
        let mut object: *const c_void = ptr::null();
        // SAFETY: the term is of this environment, and the VM keeps all known types.
        let is_of = |known: &Type| unsafe {
            enif_get_resource(call.env(), handle.raw(), known.0, &mut object) != 0
        };
        match self.known.read().iter().any(is_of) {
            // SAFETY: `make` alone makes terms of objects of these types, and has written a value.
            // The object lives as long as the term, which is of this environment.
            true => Ok(unsafe { &*object.cast::<T>() }),
            false => Err(Fault::BadArgument),
        }
    }

    /// Returns the resource type of new handles, and adds it to the known ones.
    fn newest_kept(&self) -> Type {
        let newest = Type(self.newest.load(Ordering::Acquire));
        if !self.known.read().contains(&newest) {
            let mut known = self.known.write();
            if !known.contains(&newest) {
                // SAFETY: a call runs, so its module is loaded and the VM keeps the type. No term
                // has the object, which is never released, and so never destroyed.
                unsafe { enif_alloc_resource(newest.0, size_of::<T>()) };
                known.push(newest);
            }
        }
        newest
    }
}

/// Drops the value of a handle.
///
/// # Safety
/// `object` was made by [`Handles::make`] for the same type of value, and is destroyed once. The VM
/// calls it so.
unsafe extern "C" fn destroy<T>(_: *mut ErlNifEnv, object: *mut c_void) {
    // A panic must not unwind into the VM's C code.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the object holds a value, and is destroyed once.
        unsafe { ptr::drop_in_place(object.cast::<T>()) };
    }));
}
