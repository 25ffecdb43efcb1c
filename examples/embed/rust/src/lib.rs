//! The exported functions behind a safe type. No standard library, no allocation: a model is a plain value that may live
//! in a static, on a stack or in a box.
#![no_std]

use core::ffi::{c_char, c_void, CStr};

pub const BATCH: usize = 32;
pub const FEATURES: usize = 64;
pub const CLASSES: usize = 10;
include!(concat!(env!("OUT_DIR"), "/sizes.rs")); // WORKSPACE, of digits.h

#[repr(C)]
struct Context {
    version: u32,
    isa: u32,
    workspace_bytes: u64,
    pool: *mut c_void,
    parallel_for: Option<extern "C" fn(*mut c_void, extern "C" fn(*mut c_void, i64), *mut c_void, i64)>,
}

extern "C" {
    fn digits_init_run(inputs: *const *const c_void, outputs: *const *mut c_void, workspace: *mut c_void, context: *const Context) -> i32;
    fn digits_predict_run(inputs: *const *const c_void, outputs: *const *mut c_void, workspace: *mut c_void, context: *const Context) -> i32;
    fn digits_train_step_run(inputs: *const *const c_void, outputs: *const *mut c_void, workspace: *mut c_void, context: *const Context) -> i32;
    fn digits_cpu() -> i32;
    fn digits_strerror(status: i32) -> *const c_char;
}

/// What the library refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    /// What it means, in English.
    pub fn text(self) -> &'static str {
        // SAFETY: the library returns constant texts that end with a zero byte.
        unsafe { CStr::from_ptr(digits_strerror(self.0)) }.to_str().unwrap_or("?")
    }

    fn check(status: i32) -> Result<(), Status> {
        if status == 0 { Ok(()) } else { Err(Status(status)) }
    }
}

#[derive(Clone)]
#[repr(C)]
struct Parameters {
    weight0: [f32; 128 * 64],
    bias0: [f32; 128],
    weight2: [f32; 64 * 128],
    bias2: [f32; 64],
    weight4: [f32; 10 * 64],
    bias4: [f32; 10],
}

impl Parameters {
    const ZERO: Parameters = Parameters {
        weight0: [0.0; 128 * 64],
        bias0: [0.0; 128],
        weight2: [0.0; 64 * 128],
        bias2: [0.0; 64],
        weight4: [0.0; 10 * 64],
        bias4: [0.0; 10],
    };

    fn pointers(&mut self) -> [*mut c_void; 6] {
        [
            self.weight0.as_mut_ptr().cast(),
            self.bias0.as_mut_ptr().cast(),
            self.weight2.as_mut_ptr().cast(),
            self.bias2.as_mut_ptr().cast(),
            self.weight4.as_mut_ptr().cast(),
            self.bias4.as_mut_ptr().cast(),
        ]
    }
}

#[repr(C, align(64))]
struct Workspace([u8; WORKSPACE]);

/// A model with its optimiser's state and all the memory that it needs.
pub struct Model {
    workspace: Workspace,
    weights: Parameters,
    momentum: Parameters,
    isa: u32,
}

impl Model {
    /// A model with all weights at zero; `init` draws them.
    pub fn zero() -> Model {
        // SAFETY: asks the processor, reads no memory.
        let isa = unsafe { digits_cpu() } as u32;
        Model { workspace: Workspace([0; WORKSPACE]), weights: Parameters::ZERO, momentum: Parameters::ZERO, isa }
    }

    /// First weights from a seed, and momentum of zero.
    pub fn init(&mut self, seed: i64) -> Result<(), Status> {
        let outputs = self.state();
        let inputs = [(&raw const seed).cast()];
        let context = self.context();
        // SAFETY: every pointer is to an array of the size that digits.h states.
        Status::check(unsafe { digits_init_run(inputs.as_ptr(), outputs.as_ptr(), self.workspace.0.as_mut_ptr().cast(), &context) })
    }

    /// One step of training on a batch; gives the loss.
    pub fn train(&mut self, x: &[[f32; FEATURES]; BATCH], labels: &[i32; BATCH], rate: f32) -> Result<f32, Status> {
        let mut loss = 0.0f32;
        let state = self.state();
        let mut inputs = [core::ptr::null(); 15];
        let mut outputs = [core::ptr::null_mut(); 13];
        for (i, &pointer) in state.iter().enumerate() {
            inputs[i] = pointer.cast_const();
            outputs[i] = pointer;
        }
        inputs[12] = (&raw const rate).cast();
        inputs[13] = x.as_ptr().cast();
        inputs[14] = labels.as_ptr().cast();
        outputs[12] = (&raw mut loss).cast();
        let context = self.context();
        // SAFETY: as in `init`; weights and momentum are donated: the same pointers stand among the outputs.
        Status::check(unsafe { digits_train_step_run(inputs.as_ptr(), outputs.as_ptr(), self.workspace.0.as_mut_ptr().cast(), &context) })?;
        Ok(loss)
    }

    /// The class of highest score for each row.
    pub fn predict(&mut self, x: &[[f32; FEATURES]; BATCH]) -> Result<[i32; BATCH], Status> {
        let mut scores = [[0.0f32; CLASSES]; BATCH];
        let w = self.weights.pointers().map(|p| p.cast_const());
        let inputs = [w[0], w[1], w[2], w[3], w[4], w[5], x.as_ptr().cast()];
        let outputs = [scores.as_mut_ptr().cast()];
        let context = self.context();
        // SAFETY: as in `init`.
        Status::check(unsafe { digits_predict_run(inputs.as_ptr(), outputs.as_ptr(), self.workspace.0.as_mut_ptr().cast(), &context) })?;
        Ok(scores.map(|row| (0..CLASSES).fold(0, |best, k| if row[k] > row[best] { k } else { best }) as i32))
    }

    fn state(&mut self) -> [*mut c_void; 12] {
        let (w, m) = (self.weights.pointers(), self.momentum.pointers());
        [w[0], w[1], w[2], w[3], w[4], w[5], m[0], m[1], m[2], m[3], m[4], m[5]]
    }

    fn context(&self) -> Context {
        Context { version: 1, isa: self.isa, workspace_bytes: WORKSPACE as u64, pool: core::ptr::null_mut(), parallel_for: None }
    }
}
