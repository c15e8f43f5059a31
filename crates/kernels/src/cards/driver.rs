//! What the NVIDIA driver says of the cards, asked of its library without linking it.

#![expect(
    unsafe_code,
    reason = "functions of a library that is loaded at run time: see `Driver`"
)]

use std::error::Error as _;
use std::ffi::{c_int, c_uint};

use libloading::Library;

use super::Capability;

/// The driver's library, as every Linux distribution and container runtime has it.
const LIBRARY: &str = "libcuda.so.1";

// Of cuda.h.
const SUCCESS: c_int = 0;
const NO_DEVICE: c_int = 100;
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// Why there are no cards to tell of.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No driver is installed, or none is given to the container.
    #[error("there is no NVIDIA driver ({0})")]
    NoDriver(String),
    /// The driver has no card, or CUDA_VISIBLE_DEVICES hides them all.
    #[error("the NVIDIA driver shows no card")]
    NoCard,
    /// A call failed, as it does where the library and the kernel's module differ.
    #[error("the NVIDIA driver does not work: {call} gives error {status}")]
    Failed {
        /// The function.
        call: &'static str,
        /// Its answer, a `CUresult`.
        status: i32,
    },
}

impl From<libloading::Error> for DriverError {
    fn from(error: libloading::Error) -> Self {
        // The dynamic loader's own words, where there are such.
        let reason = error.source().map(ToString::to_string);
        Self::NoDriver(reason.unwrap_or_else(|| error.to_string()))
    }
}

/// The compute capabilities of the cards that this process may use, in the driver's order, which
/// `CUDA_VISIBLE_DEVICES` governs. At least one.
///
/// # Errors
/// When there is no driver, none that works, or no card.
pub fn cards() -> Result<Vec<Capability>, DriverError> {
    let driver = Driver::load()?;
    driver.initialise()?;
    let count = driver.count()?;
    if count == 0 {
        return Err(DriverError::NoCard);
    }
    (0..count)
        .map(|ordinal| driver.capability(ordinal))
        .collect()
}

/// The functions that are asked, by the declarations of cuda.h.
///
/// They may be called from any thread, take what their types say, and write to no address but the
/// one that they are given. That is as much as can be said of foreign code, and what candle trusts in
/// as well.
struct Driver {
    init: unsafe extern "C" fn(c_uint) -> c_int,
    device_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    device: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
}

impl Driver {
    fn load() -> Result<Self, DriverError> {
        // SAFETY: the driver's library may be loaded by anybody at any time. The symbols have the
        // types that cuda.h declares, and stay where they are: the library is never unloaded.
        unsafe {
            let library = Library::new(LIBRARY)?;
            let driver = Self {
                init: *library.get(c"cuInit")?,
                device_count: *library.get(c"cuDeviceGetCount")?,
                device: *library.get(c"cuDeviceGet")?,
                attribute: *library.get(c"cuDeviceGetAttribute")?,
            };
            // It has threads and handlers of its own, and candle may use it next.
            std::mem::forget(library);
            Ok(driver)
        }
    }

    fn initialise(&self) -> Result<(), DriverError> {
        // SAFETY: see `Driver`. Flags must be 0.
        check("cuInit", unsafe { (self.init)(0) })
    }

    fn count(&self) -> Result<c_int, DriverError> {
        let mut count = 0;
        // SAFETY: see `Driver`.
        let status = unsafe { (self.device_count)(&raw mut count) };
        check("cuDeviceGetCount", status).map(|()| count.max(0))
    }

    fn capability(&self, ordinal: c_int) -> Result<Capability, DriverError> {
        let mut device = 0;
        // SAFETY: see `Driver`.
        let status = unsafe { (self.device)(&raw mut device, ordinal) };
        check("cuDeviceGet", status)?;
        let read = |attribute| {
            let mut value = 0;
            // SAFETY: see `Driver`.
            let status = unsafe { (self.attribute)(&raw mut value, attribute, device) };
            check("cuDeviceGetAttribute", status).map(|()| value.unsigned_abs())
        };
        Ok(Capability {
            major: read(COMPUTE_CAPABILITY_MAJOR)?,
            minor: read(COMPUTE_CAPABILITY_MINOR)?,
        })
    }
}

fn check(call: &'static str, status: c_int) -> Result<(), DriverError> {
    match status {
        SUCCESS => Ok(()),
        NO_DEVICE => Err(DriverError::NoCard),
        _ => Err(DriverError::Failed { call, status }),
    }
}
