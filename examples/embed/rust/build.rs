// Links libdigits.a of the folder that FOLDER names (../out if it is not set), and reads the workspace's size from digits.h.
use std::{env, fs, path::PathBuf};

fn main() {
    let folder = env::var("FOLDER").map(PathBuf::from).unwrap_or_else(|_| PathBuf::from("../out"));
    let folder = folder.canonicalize().expect("the folder that digits_library.py has written");
    let header = fs::read_to_string(folder.join("digits.h")).expect("digits.h in that folder");
    let bytes = header.lines().find_map(|line| line.strip_prefix("#define DIGITS_WORKSPACE_BYTES ")).expect("the workspace's size");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("sizes.rs"), format!("const WORKSPACE: usize = {};\n", bytes.trim())).expect("a writable folder");
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=digits");
    println!("cargo:rerun-if-changed={}", folder.join("libdigits.a").display());
    println!("cargo:rerun-if-env-changed=FOLDER");
}
