//! Two functions for DataFusion: an address is in a block; a list has a text.
//!
//! Both take one column of text and hold what it is compared with, so that it is read once a query. Neither can be
//! confused with a pattern: nothing in a value is special.
//!
//! Invariant: null for null, and no error for any text.

use super::language::network::{Network, number};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::net::IpAddr;

/// Whether the text is an IP address of the block.
pub fn address_within(text: Expr, network: Network) -> Expr {
    let (first, last) = network.bounds();
    call(text, Test::Within { first, last })
}

/// Whether the JSON text has the needle in it, as it stands.
pub fn text_contains(text: Expr, needle: String) -> Expr {
    call(text, Test::Contains { needle })
}

fn call(text: Expr, test: Test) -> Expr {
    let function = Function {
        test,
        signature: Signature::string(1, Volatility::Immutable),
    };
    ScalarUDF::from(function).call(vec![text])
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    Within { first: u128, last: u128 },
    Contains { needle: String },
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Within { first, last } => text
                .parse::<IpAddr>()
                .is_ok_and(|address| (*first..=*last).contains(&number(address))),
            Self::Contains { needle } => text.contains(needle.as_str()),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    test: Test,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.test {
            Test::Within { .. } => "address_within",
            Test::Contains { .. } => "text_contains",
        }
    }

    /// With what it compares: two calls on one column are two columns.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let of: Vec<String> = args.iter().map(ToString::to_string).collect();
        let of = of.join(",");
        Ok(match &self.test {
            Test::Within { first, last } => format!("address_within({of},{first:x},{last:x})"),
            Test::Contains { needle } => format!("text_contains({of},{needle:?})"),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let one = |text: Option<&str>| text.map(|text| self.test.holds(text));
        match args.args.first() {
            Some(ColumnarValue::Array(array)) => {
                let views: ArrayRef = cast(array, &DataType::Utf8View)?;
                let views: &StringViewArray = views.as_string_view();
                let holds: BooleanArray = (0..views.len())
                    .map(|row| one(views.is_valid(row).then(|| views.value(row))))
                    .collect();
                Ok(ColumnarValue::Array(std::sync::Arc::new(holds)))
            }
            Some(ColumnarValue::Scalar(value)) => {
                Ok(ColumnarValue::Scalar(ScalarValue::Boolean(one(value
                    .try_as_str()
                    .flatten()))))
            }
            None => Ok(ColumnarValue::Scalar(ScalarValue::Boolean(None))),
        }
    }
}
