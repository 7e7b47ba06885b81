//! Addresses as people write them.

use std::str::FromStr;

use super::{Address, PciError};

impl FromStr for Address {
    type Err = PciError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = match text.matches(':').count() {
            1 => Self::of_directory(&format!("0000:{text}")),
            _ => Self::of_directory(text),
        };
        whole.ok_or_else(|| PciError::Address { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "0000:00:00",
            "0000:00:00.8",
            "0000:00:20.0",
            "0000:+0:00.0",
            "000:00:00.0",
            "0000:00:00.0 ",
            "123456789:00:00.0",
            "0000:000:00.0",
            "0:0:0:0.0",
            "٠٠:٠٠.٠",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_an_error(
            text in ".{0,20}|[0-9a-fA-F]{1,9}:[0-9a-f]{1,3}:[0-3][0-9a-f][.][0-9]"
        ) {
            if let Ok(address) = text.parse::<Address>() {
                let written = address.to_string();
                prop_assert_eq!(written.parse::<Address>().expect("read"), address);
                let lowercase = text.to_lowercase();
                prop_assert_eq!(
                    written.trim_start_matches('0'),
                    lowercase.trim_start_matches('0')
                );
            }
        }
    }
}
