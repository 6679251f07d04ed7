//! Records of the kernel's audit, in which processes have chosen their names:
//! whatever stands in one, only the kernel's own keys count.
#![no_main]

use howdah::sandbox::audit::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    Record::from_message(bytes);
    let text = String::from_utf8_lossy(bytes);
    for kind in [1326, 1423, 1424] {
        Record::parse(kind, &text);
    }
    // As audit_log_untrustedstring writes it: quoted if it is harmless, else hexadecimal digits.
    let harmless = bytes.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'"');
    let name = if harmless {
        format!("\"{text}\"")
    } else {
        bytes.iter().map(|byte| format!("{byte:02X}")).collect()
    };
    let record = format!("audit(1:2): uid=33 comm={name} exe={name} sig=31 arch=c000003e syscall=1 pid=7");
    match Record::parse(1326, &record) {
        Some(Record::Seccomp { pid: 7, uid: 33, ended: true, .. }) => {}
        other => panic!("{record}: {other:?}"),
    }
});
