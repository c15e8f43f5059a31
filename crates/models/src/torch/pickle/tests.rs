//! Pickles written out by hand.

use proptest::prelude::*;

use super::machine::{MAX_INSTRUCTIONS, MAX_STACK};
use super::*;

fn refused(bytes: &[u8]) -> String {
    Pickle::read(bytes).unwrap_err().to_string()
}

/// The values of a pickle that makes a list.
fn list(bytes: &[u8]) -> Vec<Value<'_>> {
    let pickle = Pickle::read(bytes).unwrap();
    match pickle.node(pickle.root()) {
        Some(Node::List(values)) => values.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_of_every_form_are_read() {
    let cases: [(&[u8], i64); 13] = [
        (b"K\xff", 255),
        (b"M\xff\xff", 65_535),
        (b"J\xff\xff\xff\xff", -1),
        (b"J\x00\x00\x00\x80", -(1 << 31)),
        (b"\x8a\x00", 0),
        (b"\x8a\x01\xff", -1),
        (b"\x8a\x02\xff\x00", 255),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", i64::MAX),
        (
            b"\x8b\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80",
            i64::MIN,
        ),
        (b"I-12\n", -12),
        (b"I01\n", 1),
        (b"L9223372036854775807L\n", i64::MAX),
        (b"L-5\n", -5),
    ];
    for (instruction, expected) in cases {
        let bytes = [instruction, b"."].concat();
        let pickle = Pickle::read(&bytes).unwrap();
        assert_eq!(pickle.root(), Value::Int(expected), "{instruction:x?}");
    }
}

#[test]
fn what_says_nothing_of_tensors_is_opaque() {
    let values = list(
        b"\x80\x05](N\x88\x89G\x00\x00\x00\x00\x00\x00\x00\x00F1.5\nC\x01\xffB\x01\x00\x00\x00\xff\
          \x8e\x01\x00\x00\x00\x00\x00\x00\x00\xff\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\
          L123456789012345678901L\ne.",
    );
    assert_eq!(values, [Value::Opaque; 10]);
}

#[test]
fn texts_of_every_length_are_read() {
    let values = list(
        b"](X\x02\x00\x00\x00abU\x01cT\x01\x00\x00\x00d\x8c\x02\xc3\xa9\
          \x8d\x01\x00\x00\x00\x00\x00\x00\x00fe.",
    );
    let expected = ["ab", "c", "d", "é", "f"].map(Value::Text);
    assert_eq!(values, expected);
}

#[test]
fn values_are_kept_and_recalled_by_number() {
    // Kept in order, by one byte, by four, and in digits; order starts anew for no one.
    let values = list(
        b"](K\x01\x94K\x02q\x07K\x03r\x00\x00\x01\x00K\x04p9\nh\x00h\x07j\x00\x00\x01\x00g9\ne.",
    );
    let expected = [1, 2, 3, 4, 1, 2, 3, 4].map(Value::Int);
    assert_eq!(values, expected);
    assert!(refused(b"h\x00.").contains("no value of that number"));
}

#[test]
fn dictionaries_are_filled_in_order() {
    let filled: [&[u8]; 4] = [
        b"}(K\x01K\x02K\x03K\x04u.",
        b"}K\x01K\x02sK\x03K\x04s.",
        b"(K\x01K\x02K\x03K\x04d.",
        b"ccollections\nOrderedDict\n)R(K\x01K\x02K\x03K\x04u}b.",
    ];
    for bytes in filled {
        let pickle = Pickle::read(bytes).unwrap();
        let expected = [(1, 2), (3, 4)].map(|(key, value)| (Value::Int(key), Value::Int(value)));
        assert_eq!(pickle.dict(pickle.root()).unwrap(), expected, "{bytes:x?}");
    }
    assert!(refused(b"}(K\x01u.").contains("no value"));
    assert!(refused(b"K\x01(K\x01K\x02u.").contains("no dictionary"));
    assert!(refused(b"}K\x01a.").contains("no list"));
    assert!(refused(b"ccollections\nOrderedDict\n]\x85R.").contains("made of something"));
}

#[test]
fn tuples_hold_what_they_are_made_of() {
    let tuples: [(&[u8], i64); 5] = [
        (b").", 0),
        (b"K\x01\x85.", 1),
        (b"K\x01K\x02\x86.", 2),
        (b"K\x01K\x02K\x03\x87.", 3),
        (b"(K\x01K\x02K\x03K\x04t.", 4),
    ];
    for (bytes, len) in tuples {
        let pickle = Pickle::read(bytes).unwrap();
        let expected: Vec<Value<'_>> = (1..=len).map(Value::Int).collect();
        assert_eq!(pickle.tuple(pickle.root()).unwrap(), expected, "{bytes:x?}");
    }
}

#[test]
fn calls_are_remembered_and_not_made() {
    let calls: [&[u8]; 3] = [
        b"ctorch\nSize\nK\x07\x85R.",
        b"\x8c\x05torch\x8c\x04Size\x93K\x07\x85\x81.",
        b"\x8c\x05torch\x8c\x04Size\x93K\x07\x85}\x92.",
    ];
    for bytes in calls {
        let pickle = Pickle::read(bytes).unwrap();
        let Some(&Node::Made {
            of,
            arguments,
            state,
        }) = pickle.node(pickle.root())
        else {
            panic!("{pickle:?}");
        };
        assert_eq!(of, Global::Size);
        assert_eq!(pickle.tuple(arguments).unwrap(), [Value::Int(7)]);
        assert_eq!(state, Value::Opaque);
    }
}

#[test]
fn attributes_are_kept_beside_what_they_belong_to() {
    // Both mentions are of one object.
    let pickle = Pickle::read(b"c_io\nBytesIO\n)\x81q\x00h\x00K\x07b\x86.").unwrap();
    let &[first, second] = pickle.tuple(pickle.root()).unwrap() else {
        panic!("{pickle:?}");
    };
    assert_eq!(first, second);
    let Some(Node::Made { state, .. }) = pickle.node(first) else {
        panic!("{pickle:?}");
    };
    assert_eq!(*state, Value::Int(7));
    assert!(refused(b"]K\x07b.").contains("of what has none"));
}

#[test]
fn foreign_names_are_refused_by_name() {
    let cases: [(&[u8], &str); 5] = [
        (b"cos\nsystem\n.", "`os.system`"),
        (b"\x8c\x02os\x8c\x06system\x93.", "`os.system`"),
        (b"ctorch\nload\n.", "`torch.load`"),
        (
            b"ctorch\nComplexFloatStorage\n.",
            "`torch.ComplexFloatStorage`",
        ),
        (
            b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
            "__globals__",
        ),
    ];
    for (bytes, name) in cases {
        let message = refused(bytes);
        assert!(message.contains(name), "{message}");
        assert!(message.contains("is not read"), "{message}");
    }
    let long = [b"c\x1b[31m", &[b'x'; 1000][..], b"\ny\n."].concat();
    let message = refused(&long);
    assert!(
        message.len() < 200 && !message.contains('\x1b'),
        "{message}"
    );
}

#[test]
fn other_instructions_are_refused() {
    // Those of protocol 0, of extensions, of buffers beside the pickle, and ones that are none.
    for instruction in *b"SVPio\x82\x83\x84\x97\x98\xff\x00" {
        let message = refused(&[b'(', instruction, b'1', b'\n', b'.']);
        let expected = format!("the instruction {instruction:#04x}, which is not read");
        assert!(message.contains(&expected), "{message}");
    }
    assert!(refused(b"\x80\x06N.").contains("protocol 6"));
}

#[test]
fn a_pickle_cut_anywhere_is_refused() {
    let whole =
        b"\x80\x02ccollections\nOrderedDict\nq\x00)R(X\x01\x00\x00\x00aJ\x01\x02\x03\x04K\x01I5\nu.";
    Pickle::read(whole).unwrap();
    for len in 0..whole.len() {
        assert_eq!(
            Pickle::read(&whole[..len]).unwrap_err(),
            PickleError::Cut,
            "{len}"
        );
    }
}

#[test]
fn lengths_beyond_the_pickle_are_refused_before_anything_is_allocated() {
    let cases: [&[u8]; 6] = [
        b"\x8d\x00\x00\x00\x00\x00\x00\x00\x10.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"X\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\x7f.",
    ];
    for bytes in cases {
        assert_eq!(Pickle::read(bytes).unwrap_err(), PickleError::Cut);
    }
}

#[test]
fn values_below_a_mark_are_out_of_reach() {
    for bytes in [&b"K\x01(0."[..], b"K\x01(\x85.", b"0.", b".", b"t.", b"(("] {
        Pickle::read(bytes).unwrap_err();
    }
    assert!(refused(b"K\x01(.").contains("a value is missing"));
    assert!(refused(b"K\x01t.").contains("a mark is missing"));
}

#[test]
fn sizes_are_bounded() {
    let mut bytes = vec![b'N'; MAX_STACK + 1];
    bytes.push(b'.');
    assert!(refused(&bytes).contains("values on its stack"));
    bytes = vec![b'('; MAX_STACK + 1];
    assert!(refused(&bytes).contains("values on its stack"));
    bytes = b"N0".repeat(MAX_INSTRUCTIONS / 2);
    bytes.extend(b"N.");
    assert!(refused(&bytes).contains("instructions"));
}

#[test]
fn deep_and_circular_values_are_read_and_dropped() {
    let depth = MAX_STACK - 1;
    let deep = [b"]".repeat(depth), b"a".repeat(depth - 1), b".".to_vec()].concat();
    Pickle::read(&deep).unwrap();
    // A list within itself, and a list that holds the one before twice, forty times.
    Pickle::read(b"]q\x00h\x00a.").unwrap();
    let mut laughs = b"]q\x00".to_vec();
    for level in 1..40 {
        laughs.extend([
            b']',
            b'q',
            level,
            b'h',
            level - 1,
            b'a',
            b'h',
            level - 1,
            b'a',
        ]);
    }
    laughs.push(b'.');
    Pickle::read(&laughs).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_value_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Pickle::read(&bytes);
    }

    #[test]
    fn any_instructions_end_in_a_value_or_a_refusal(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                &b"("[..], b"0", b"1", b"t", b"\x85", b"\x86", b"]", b"}", b"a", b"e", b"s", b"u",
                b"d", b"l", b"q\x00", b"h\x00", b"\x94", b"R", b"\x81", b"\x92", b"b", b"Q",
                b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"K\x01", b"U\x01a", b")", b"\x93",
            ]),
            0..200,
        )
    ) {
        let mut bytes = parts.concat();
        bytes.push(b'.');
        if let Ok(pickle) = Pickle::read(&bytes) {
            // Every value of the result can be looked up.
            if let Value::Node(_) = pickle.root() {
                prop_assert!(pickle.node(pickle.root()).is_some());
            }
        }
    }
}
