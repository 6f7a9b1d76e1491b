//! The forward pass of a BERT encoder, for inference only.
//!
//! The tokens of a batch lie in one matrix, text after text, without padding: only attention needs to know where a text
//! ends, so that no text sees what is beside it.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayViewMut1, Axis, concatenate, s};
use serde::Deserialize;

use super::tensors::Tensors;

/// What `config.json` says of the model, as far as it is used.
#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: Activation,
}

/// The activations that are implemented.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Activation {
    Gelu,
}

/// The encoder.
pub(super) struct Bert {
    words: Array2<f32>,
    /// One row per position, the embedding of token type 0 added.
    positions: Array2<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    pub(super) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, String> {
        let Activation::Gelu = config.hidden_act;
        let hidden = config.hidden_size;
        if config.num_attention_heads == 0 || !hidden.is_multiple_of(config.num_attention_heads) {
            return Err("hidden_size is no multiple of num_attention_heads".to_owned());
        }
        let embedding =
            |name: &str, rows| tensors.matrix(&format!("embeddings.{name}_embeddings.weight"), rows, hidden);
        let types = embedding("token_type", config.type_vocab_size)?;
        let layer = |number| Layer::load(tensors, config, &format!("encoder.layer.{number}"));
        Ok(Self {
            words: embedding("word", config.vocab_size)?,
            positions: embedding("position", config.max_position_embeddings)? + types.row(0),
            norm: LayerNorm::load(tensors, config, "embeddings.LayerNorm")?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Returns for each text, given by its token ids, the mean of the last layer over its tokens.
    pub(super) fn mean(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, String> {
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        for text in texts {
            let start = spans.last().map_or(0, |span| span.end);
            spans.push(start..start + text.len());
        }
        let mut states = self.embed(texts)?;
        for layer in &self.layers {
            states = layer.forward(states, &spans);
        }
        let mean = |span: Range<usize>| {
            let tokens = states.slice(s![span, ..]);
            tokens.mean_axis(Axis(0)).map(|mean| mean.to_vec())
        };
        let means = spans.into_iter().map(mean);
        means
            .collect::<Option<_>>()
            .ok_or_else(|| "a text has no tokens".to_owned())
    }

    fn embed(&self, texts: &[Vec<u32>]) -> Result<Array2<f32>, String> {
        let total = texts.iter().map(Vec::len).sum();
        let mut states = Array2::zeros((total, self.words.ncols()));
        let tokens = texts.iter().flat_map(|text| text.iter().enumerate());
        for (mut state, (position, id)) in states.rows_mut().into_iter().zip(tokens) {
            let word = usize::try_from(*id).ok().filter(|id| *id < self.words.nrows());
            let word = word.ok_or_else(|| format!("the model knows no token {id}"))?;
            if position >= self.positions.nrows() {
                return Err(format!("a text has more than {} tokens", self.positions.nrows()));
            }
            state += &self.words.row(word);
            state += &self.positions.row(position);
        }
        self.norm.apply(&mut states);
        Ok(states)
    }
}

/// One layer: attention, then two dense layers, each with a residual connection and a norm.
struct Layer {
    heads: usize,
    /// Queries, keys and values beside each other.
    attention: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn load(tensors: &Tensors<'_>, config: &Config, prefix: &str) -> Result<Self, String> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, from, to| Linear::load(tensors, &format!("{prefix}.{name}"), from, to);
        let norm = |name: &str| LayerNorm::load(tensors, config, &format!("{prefix}.{name}.LayerNorm"));
        let attention = ["query", "key", "value"]
            .map(|name| linear(&format!("attention.self.{name}"), hidden, hidden))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            heads: config.num_attention_heads,
            attention: Linear::side_by_side(&attention)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output")?,
            intermediate: linear("intermediate.dense", hidden, wide)?,
            output: linear("output.dense", wide, hidden)?,
            output_norm: norm("output")?,
        })
    }

    fn forward(&self, states: Array2<f32>, spans: &[Range<usize>]) -> Array2<f32> {
        let attended = self.attend(&states, spans);
        let mut states = self.attention_output.forward(&attended) + states;
        self.attention_norm.apply(&mut states);
        let mut inner = self.intermediate.forward(&states);
        inner.mapv_inplace(gelu);
        let mut states = self.output.forward(&inner) + states;
        self.output_norm.apply(&mut states);
        states
    }

    /// Attention of each text's tokens to those of the same text.
    fn attend(&self, states: &Array2<f32>, spans: &[Range<usize>]) -> Array2<f32> {
        let hidden = states.ncols();
        let width = hidden / self.heads;
        let scale = (width as f32).sqrt().recip();
        let projected = self.attention.forward(states);
        let mut context = Array2::zeros(states.raw_dim());
        for span in spans {
            let mut scores = Array2::zeros((span.len(), span.len()));
            for head in 0..self.heads {
                let part = |of: usize| {
                    let start = of * hidden + head * width;
                    projected.slice(s![span.clone(), start..start + width])
                };
                let (query, key, value) = (part(0), part(1), part(2));
                general_mat_mul(scale, &query, &key.t(), 0.0, &mut scores);
                scores.rows_mut().into_iter().for_each(softmax);
                let mut context = context.slice_mut(s![span.clone(), head * width..(head + 1) * width]);
                general_mat_mul(1.0, &scores, &value, 0.0, &mut context);
            }
        }
        context
    }
}

struct Linear {
    /// Columns are outputs.
    weight: Array2<f32>,
    bias: Array1<f32>,
}

impl Linear {
    fn load(tensors: &Tensors<'_>, name: &str, from: usize, to: usize) -> Result<Self, String> {
        let weight = tensors.matrix(&format!("{name}.weight"), to, from)?;
        Ok(Self {
            weight: weight.reversed_axes(),
            bias: tensors.vector(&format!("{name}.bias"), to)?,
        })
    }

    fn side_by_side(parts: &[Self]) -> Result<Self, String> {
        let weights: Vec<_> = parts.iter().map(|part| part.weight.view()).collect();
        let biases: Vec<_> = parts.iter().map(|part| part.bias.view()).collect();
        Ok(Self {
            weight: concatenate(Axis(1), &weights).map_err(|error| error.to_string())?,
            bias: concatenate(Axis(0), &biases).map_err(|error| error.to_string())?,
        })
    }

    fn forward(&self, states: &Array2<f32>) -> Array2<f32> {
        states.dot(&self.weight) + &self.bias
    }
}

struct LayerNorm {
    weight: Array1<f32>,
    bias: Array1<f32>,
    epsilon: f32,
}

impl LayerNorm {
    fn load(tensors: &Tensors<'_>, config: &Config, name: &str) -> Result<Self, String> {
        Ok(Self {
            weight: tensors.vector(&format!("{name}.weight"), config.hidden_size)?,
            bias: tensors.vector(&format!("{name}.bias"), config.hidden_size)?,
            epsilon: config.layer_norm_eps,
        })
    }

    /// Gives each row mean 0 and variance 1, then scales and shifts it.
    fn apply(&self, states: &mut Array2<f32>) {
        let columns = states.ncols() as f32;
        for mut row in states.rows_mut() {
            let mean = row.sum() / columns;
            row -= mean;
            let variance = row.dot(&row) / columns;
            row *= (variance + self.epsilon).sqrt().recip();
            row *= &self.weight;
            row += &self.bias;
        }
    }
}

fn softmax(mut row: ArrayViewMut1<'_, f32>) {
    let max = row.fold(f32::NEG_INFINITY, |max, value| max.max(*value));
    row.mapv_inplace(|value| (value - max).exp());
    let sum = row.sum();
    row /= sum;
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function, by the rational approximation that Eigen and XLA use: within 1e-6, and without a branch, so that
/// the compiler vectorises it.
fn erf(x: f32) -> f32 {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024_1e-6,
        -5.692_506_5e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329_3e-3,
        -1.426_473_9e-2,
    ];
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let polynomial = |coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, next| sum * square + next);
    x * polynomial(&NUMERATOR) / polynomial(&DENOMINATOR)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn erf_is_near_the_true_value() {
        let table = [
            (0.0, 0.0),
            (1e-4, 1.128_379_2e-4),
            (0.1, 0.112_462_92),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (3.0, 0.999_977_9),
            (9.0, 1.0),
            (f32::INFINITY, 1.0),
        ];
        for (x, expected) in table {
            assert!((erf(x) - expected).abs() < 1e-6, "{x}: {}", erf(x));
            assert!((erf(-x) + expected).abs() < 1e-6, "{x}: {}", erf(-x));
        }
    }

    #[test]
    fn softmax_of_large_scores_is_finite() {
        let mut row = array![1000.0, 1000.0, -1000.0];
        softmax(row.view_mut());
        assert_eq!(row, array![0.5, 0.5, 0.0]);
    }

    #[test]
    fn a_norm_gives_mean_and_variance() {
        let norm = LayerNorm {
            weight: array![2.0, 2.0, 2.0, 2.0],
            bias: array![1.0, 1.0, 1.0, 1.0],
            epsilon: 1e-12,
        };
        let mut states = array![[1.0, 3.0, 1.0, 3.0]];
        norm.apply(&mut states);
        assert_eq!(states, array![[-1.0, 3.0, -1.0, 3.0]]);
    }
}
