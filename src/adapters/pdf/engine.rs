//! The few functions of PDFium that text needs, loaded from its library.
//!
//! Called directly: the crate that wraps all of PDFium brings 200,000 lines of bindings for the dozen functions here, which
//! have been the same for many years (`fpdfview.h`, `fpdf_text.h`, `fpdf_doc.h`). Only a worker process calls them.
#![expect(
    unsafe_code,
    reason = "a C library; it runs in a process of its own, in which a fault of it does no harm"
)]

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ushort, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};

use copilotd_knowledge::extract::ExtractError;

use super::readable::Readable;

type Handle = *mut c_void;

/// `FPDF_ERR_PASSWORD`.
const ERROR_PASSWORD: c_ulong = 4;
/// `FPDF_ERR_SECURITY`: an unknown kind of encryption.
const ERROR_SECURITY: c_ulong = 5;
/// Code units beyond those that PDFium says a page has.
const SPARE: usize = 16;

/// `FPDF_LIBRARY_CONFIG` of version 2.
#[repr(C)]
struct Config {
    version: c_int,
    font_paths: *const *const c_char,
    isolate: Handle,
    embedder_slot: c_uint,
}

macro_rules! functions {
    ($($field:ident: $name:literal fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// # Safety
            /// The library has to be PDFium.
            unsafe fn load(library: &libloading::Library) -> Option<Self> {
                // SAFETY: the types are those of PDFium's headers, and pointers to functions are copied while the
                // library, which is never unloaded, is loaded.
                unsafe {
                    Some(Self { $($field: *library.get($name).ok()?,)* })
                }
            }
        }
    };
}

functions! {
    init: b"FPDF_InitLibraryWithConfig\0" fn(*const Config);
    load_document: b"FPDF_LoadMemDocument64\0" fn(*const c_void, usize, *const c_char) -> Handle;
    last_error: b"FPDF_GetLastError\0" fn() -> c_ulong;
    page_count: b"FPDF_GetPageCount\0" fn(Handle) -> c_int;
    load_page: b"FPDF_LoadPage\0" fn(Handle, c_int) -> Handle;
    close_page: b"FPDF_ClosePage\0" fn(Handle);
    load_text: b"FPDFText_LoadPage\0" fn(Handle) -> Handle;
    close_text: b"FPDFText_ClosePage\0" fn(Handle);
    count_chars: b"FPDFText_CountChars\0" fn(Handle) -> c_int;
    get_text: b"FPDFText_GetText\0" fn(Handle, c_int, c_int, *mut c_ushort) -> c_int;
    meta_text: b"FPDF_GetMetaText\0" fn(Handle, *const c_char, *mut c_void, c_ulong) -> c_ulong;
}

/// PDFium, loaded and initialised.
pub struct Library(Functions);

impl Library {
    /// Loads the library from a file. At most once in a process.
    pub fn load(path: &Path) -> Option<Self> {
        // SAFETY: the operator of this server names the file, as they name the program itself.
        let functions = unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path).ok()?));
            Functions::load(library)?
        };
        // An empty list: no fonts of the system are looked for.
        let no_paths: [*const c_char; 1] = [ptr::null()];
        let config = Config {
            version: 2,
            font_paths: no_paths.as_ptr(),
            isolate: ptr::null_mut(),
            embedder_slot: 0,
        };
        // SAFETY: PDFium copies what it needs of the configuration.
        unsafe { (functions.init)(&config) };
        Some(Self(functions))
    }

    /// Opens a document.
    pub fn open<'a>(&'a self, content: &'a [u8]) -> Result<Document<'a>, ExtractError> {
        // SAFETY: the content outlives the document, which borrows it.
        let handle = unsafe { (self.0.load_document)(content.as_ptr().cast(), content.len(), ptr::null()) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Document {
                library: self,
                handle,
                _content: content,
            }),
            // SAFETY: it has no arguments.
            None => match unsafe { (self.0.last_error)() } {
                ERROR_PASSWORD | ERROR_SECURITY => Err(ExtractError::Encrypted),
                _ => Err(ExtractError::Damaged),
            },
        }
    }
}

/// An open document. It is not closed: the process ends with it.
pub struct Document<'a> {
    library: &'a Library,
    handle: NonNull<c_void>,
    _content: &'a [u8],
}

impl Readable for Document<'_> {
    fn pages(&self) -> u32 {
        // SAFETY: the document is open.
        let pages = unsafe { (self.library.0.page_count)(self.handle.as_ptr()) };
        u32::try_from(pages).unwrap_or(0)
    }

    fn title(&self, most: usize) -> Option<String> {
        let mut buffer = vec![0_u16; most];
        let bytes = c_ulong::try_from(most * 2).ok()?;
        // SAFETY: the document is open, the name ends with NUL, and the buffer has as many bytes as said; a title that
        // does not fit is not written.
        let written = unsafe {
            (self.library.0.meta_text)(
                self.handle.as_ptr(),
                c"Title".as_ptr(),
                buffer.as_mut_ptr().cast(),
                bytes,
            )
        };
        let units = usize::try_from(written).ok()? / 2;
        text(buffer.get(..units)?)
    }

    fn text(&self, number: u32) -> Option<String> {
        let functions = &self.library.0;
        // SAFETY: the document is open; what was loaded is closed once, the text before its page.
        unsafe {
            let page = NonNull::new((functions.load_page)(
                self.handle.as_ptr(),
                c_int::try_from(number).ok()?,
            ))?;
            let loaded = NonNull::new((functions.load_text)(page.as_ptr()));
            let found = loaded.and_then(|loaded| {
                let found = self.text_of(loaded);
                (functions.close_text)(loaded.as_ptr());
                found
            });
            (functions.close_page)(page.as_ptr());
            found
        }
    }
}

impl Document<'_> {
    /// # Safety
    /// `loaded` has to be the open text of a page.
    unsafe fn text_of(&self, loaded: NonNull<c_void>) -> Option<String> {
        let functions = &self.library.0;
        // SAFETY: the text is open, and the buffer has room for the end mark and more than as many code units.
        unsafe {
            let count = (functions.count_chars)(loaded.as_ptr());
            let room = usize::try_from(count).ok()?.saturating_mul(2).saturating_add(SPARE);
            let mut buffer = vec![0_u16; room];
            let written = (functions.get_text)(loaded.as_ptr(), 0, count, buffer.as_mut_ptr());
            let units = buffer.get(..usize::try_from(written).ok()?)?;
            Some(text(units).unwrap_or_default())
        }
    }
}

/// Decodes UTF-16 up to its end mark; none if it is empty.
fn text(units: &[u16]) -> Option<String> {
    let end = units.iter().rposition(|unit| *unit != 0)? + 1;
    Some(String::from_utf16_lossy(&units[..end]))
}
