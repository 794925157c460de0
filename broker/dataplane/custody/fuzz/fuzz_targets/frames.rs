#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    hopseal_custody_fuzz::frames(data);
});
