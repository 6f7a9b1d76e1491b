//! Tensors of a safetensors file, as `f32`.

use half::f16;
use ndarray::{Array1, Array2};
use safetensors::{Dtype, SafeTensors};

/// The tensors of one file.
pub(super) struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        SafeTensors::deserialize(bytes)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Reads the vector `name` of `len` numbers.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Array1<f32>, String> {
        self.values(name, &[len]).map(Array1::from_vec)
    }

    /// Reads the matrix `name`.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Array2<f32>, String> {
        let values = self.values(name, &[rows, columns])?;
        Array2::from_shape_vec((rows, columns), values).map_err(|error| format!("{name}: {error}"))
    }

    /// Reads the matrix `name` of any number of rows.
    pub(super) fn rows(&self, name: &str, columns: usize) -> Result<Array2<f32>, String> {
        let tensor = self.0.tensor(name).map_err(|error| error.to_string())?;
        self.matrix(name, tensor.shape().first().copied().unwrap_or(0), columns)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let tensor = self.0.tensor(name).map_err(|error| error.to_string())?;
        if tensor.shape() != shape {
            return Err(format!("{name} has the shape {:?}, not {shape:?}", tensor.shape()));
        }
        let (numbers, _) = tensor.data().as_chunks();
        let (halves, _) = tensor.data().as_chunks();
        match tensor.dtype() {
            Dtype::F32 => Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(halves.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            other => Err(format!("{name} holds {other:?}, not F32 or F16")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one tensor, `t`.
    fn file(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!(
            r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn both_widths_are_read() {
        let wide = file(
            "F32",
            "[2]",
            &[1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat(),
        );
        let narrow = file("F16", "[1,2]", &[0x00, 0x3e, 0x00, 0xc0]);
        let wide = Tensors::read(&wide).unwrap().vector("t", 2).unwrap();
        let narrow = Tensors::read(&narrow).unwrap().rows("t", 2).unwrap();
        assert_eq!(wide.to_vec(), [1.5, -2.0]);
        assert_eq!(narrow.row(0), wide);
    }

    #[test]
    fn other_names_shapes_and_types_are_errors() {
        let ints = file("I32", "[2]", &[0; 8]);
        let floats = file("F32", "[2]", &[0; 8]);
        let error = |bytes: &[u8], name: &str, len| Tensors::read(bytes).unwrap().vector(name, len).unwrap_err();
        assert!(error(&ints, "t", 2).contains("I32"));
        assert!(error(&floats, "t", 3).contains("[2], not [3]"));
        assert!(error(&floats, "u", 2).contains('u'));
        assert!(Tensors::read(b"short").is_err());
    }
}
