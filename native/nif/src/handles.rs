//! Handles: references that a process holds, and behind each a value that lives for as long as one of them does.
//!
//! The VM tells the library's handles from others by their *type*, and makes a new type whenever the Erlang module is loaded, while
//! handles from before are still around. So a handle is looked up by all types that handles were made of. The VM forgets a type with its last handle, and might
//! use its address for another library's; so of each type one more object is made, which stays for ever. That also keeps the library in memory where
//! the linker was not told to.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use parking_lot::RwLock;
use rustler::sys::{
    c_void, enif_alloc_resource, enif_get_resource, enif_make_resource, enif_open_resource_type,
    enif_release_resource, ErlNifEnv, ErlNifResourceFlags, ErlNifResourceType, ErlNifTerm,
};

use crate::call::{Call, Fault};

/// The handles of one kind of value.
pub struct Handles<T> {
    name: &'static CStr,
    /// The type of new handles.
    newest: AtomicPtr<ErlNifResourceType>,
    /// The types that handles were made of, each with an object that stays.
    known: RwLock<Vec<Type>>,
    values: PhantomData<fn(T) -> T>,
}

/// A type that the VM does not forget.
#[derive(Clone, Copy, PartialEq)]
struct Type(*const ErlNifResourceType);

// SAFETY: nothing is read from or written to what it points to, but by the VM, whose functions may be called by any thread.
unsafe impl Send for Type {}
// SAFETY: as above.
unsafe impl Sync for Type {}

impl<T: Send + Sync + 'static> Handles<T> {
    /// Handles whose types have this name.
    pub const fn new(name: &'static CStr) -> Self {
        // The VM aligns objects so.
        const { assert!(align_of::<T>() <= align_of::<usize>()) };
        Handles {
            name,
            newest: AtomicPtr::new(ptr::null_mut()),
            known: RwLock::new(Vec::new()),
            values: PhantomData,
        }
    }

    /// Has the VM make the type of the handles of a module that is being loaded; `false` when it does not.
    ///
    /// # Safety
    /// `env` is the environment of the module's loading.
    pub unsafe fn open(&self, env: *mut ErlNifEnv) -> bool {
        let create = ErlNifResourceFlags::ERL_NIF_RT_CREATE;
        let mut tried = create;
        // SAFETY: by this function's own condition; the name ends with a zero, and the destructor is one of this type's objects.
        let opened = unsafe {
            enif_open_resource_type(
                env,
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

    /// A handle of a value.
    pub fn make(&self, call: &Call, value: T) -> ErlNifTerm {
        let newest = self.newest_kept();
        // SAFETY: the type is one of objects of this size, and the value is written before anybody else has the object, which is
        // released once: from there on the term has it.
        unsafe {
            let object = enif_alloc_resource(newest.0, size_of::<T>());
            object.cast::<T>().write(value);
            let handle = enif_make_resource(call.env, object);
            enif_release_resource(object);
            handle
        }
    }

    /// The value behind a handle.
    pub fn get<'c>(&self, call: &'c Call, handle: ErlNifTerm) -> Result<&'c T, Fault> {
        let mut object: *const c_void = ptr::null();
        // SAFETY: the term is of the caller's environment, and the types are known to the VM.
        let is_of = |known: &Type| unsafe {
            enif_get_resource(call.env, handle, known.0, &mut object) != 0
        };
        match self.known.read().iter().any(is_of) {
            // SAFETY: an object of one of these types that a term has was made by `make`, and holds a value. It lives as long as the term, which is
            // of the caller's environment.
            true => Ok(unsafe { &*object.cast::<T>() }),
            false => Err(Fault::BadArgument),
        }
    }

    /// The type of new handles, known from now on.
    fn newest_kept(&self) -> Type {
        let newest = Type(self.newest.load(Ordering::Acquire));
        if !self.known.read().contains(&newest) {
            let mut known = self.known.write();
            if !known.contains(&newest) {
                // SAFETY: the module is loaded, so the type is there. Nobody ever gets the object, which is not released and so never destroyed.
                unsafe { enif_alloc_resource(newest.0, size_of::<T>()) };
                known.push(newest);
            }
        }
        newest
    }
}

/// Drops the value of a handle that is gone.
///
/// # Safety
/// Only for the VM to call, of an object that [`Handles::make`] made.
unsafe extern "C" fn destroy<T>(_: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: the object holds a value, and is destroyed once. A panic does not cross the VM's C code.
    let _ = catch_unwind(AssertUnwindSafe(|| unsafe {
        ptr::drop_in_place(object.cast::<T>());
    }));
}
