// Links libdigits.a of the folder that FOLDER names (../out if it is not set).
use std::{env, path::PathBuf};

fn main() {
    let folder = env::var("FOLDER").map(PathBuf::from).unwrap_or_else(|_| PathBuf::from("../out"));
    let folder = folder.canonicalize().expect("the folder that digits_library.py has written");
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=digits");
    println!("cargo:rerun-if-changed={}", folder.join("libdigits.a").display());
    println!("cargo:rerun-if-env-changed=FOLDER");
}
