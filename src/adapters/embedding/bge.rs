//! bge-small-en-v1.5 in eight bits, run by rten. The vector of a text is the last layer's at its first token, as the
//! model was trained, and a question is told from a passage by a prefix.

use std::sync::Arc;

use copilotd_actors::ports::Purpose;
use rten::{Model as Graph, ModelOptions, NodeId, RunOptions, ThreadPool, Value, op_registry};
use tokenizers::{Tokenizer, TruncationParams};

use super::Model;
use super::files::{FilesError, ModelFiles};

/// Word pieces of a text that count, with those at its ends; the model was trained on no more.
const MAX_TOKENS: usize = 512;
/// Numbers of a vector.
const DIMENSION: usize = 384;
/// What stands before a question that is to find passages, from the model's card.
const QUERY_PREFIX: &str = "Represent this sentence for searching relevant passages: ";

/// The loaded model.
pub(super) struct BgeSmall {
    tokenizer: Tokenizer,
    graph: Graph,
    ids: NodeId,
    mask: NodeId,
    types: NodeId,
    states: NodeId,
}

impl BgeSmall {
    pub(super) fn load(files: &ModelFiles) -> Result<Self, FilesError> {
        let mut tokenizer =
            Tokenizer::from_bytes(files.get("tokenizer.json")).map_err(|error| files.unusable(error))?;
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            max_length: MAX_TOKENS,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| files.unusable(error))?;
        // Only these operators are linked into the binary.
        let operators = op_registry!(
            Add,
            Cast,
            Concat,
            DequantizeLinear,
            Div,
            DynamicQuantizeLinear,
            Erf,
            Gather,
            MatMul,
            MatMulInteger,
            Mul,
            Pow,
            ReduceMean,
            Reshape,
            Shape,
            Slice,
            Softmax,
            Sqrt,
            Sub,
            Transpose,
            Unsqueeze
        );
        let mut options = ModelOptions::with_ops(operators);
        options.prepack_weights(true);
        let graph = options
            .load(files.get("model.onnx").to_vec())
            .map_err(|error| files.unusable(error))?;
        let node = |name| graph.node_id(name).map_err(|error| files.unusable(error));
        Ok(Self {
            ids: node("input_ids")?,
            mask: node("attention_mask")?,
            types: node("token_type_ids")?,
            states: node("last_hidden_state")?,
            tokenizer,
            graph,
        })
    }
}

impl Model for BgeSmall {
    fn tokens(&self, text: &str, purpose: Purpose) -> Result<Vec<u32>, String> {
        let encoded = match purpose {
            Purpose::Passage => self.tokenizer.encode(text, true),
            Purpose::Query => self.tokenizer.encode(format!("{QUERY_PREFIX}{text}"), true),
        };
        Ok(encoded.map_err(|error| error.to_string())?.get_ids().to_vec())
    }

    fn run(&self, texts: &[&[u32]], threads: &Arc<ThreadPool>) -> Result<Vec<Vec<f32>>, String> {
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        let shape = [texts.len(), longest];
        // The mask keeps attention from the padding, whose token is 0.
        let mut ids = vec![0; texts.len() * longest];
        let mut mask = ids.clone();
        for (text, (ids, mask)) in texts
            .iter()
            .zip(ids.chunks_exact_mut(longest).zip(mask.chunks_exact_mut(longest)))
        {
            for (id, place) in text.iter().zip(ids) {
                *place = i32::try_from(*id).map_err(|_| format!("the model knows no token {id}"))?;
            }
            mask[..text.len()].fill(1);
        }
        let types = vec![0; ids.len()];
        let value = |data: Vec<i32>| Value::from_shape(shape, data).map_err(|error| error.to_string());
        let inputs = vec![
            (self.ids, value(ids)?.into()),
            (self.mask, value(mask)?.into()),
            (self.types, value(types)?.into()),
        ];
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(threads)));
        let outputs = self.graph.run_n(inputs, [self.states], Some(options));
        let [states] = outputs.map_err(|error| error.to_string())?;
        let (shape, states) = states.into_shape_vec::<f32, 3>().map_err(|error| error.to_string())?;
        if shape != [texts.len(), longest, DIMENSION] {
            return Err(format!("the model answered with the shape {shape:?}"));
        }
        let first = |states: &[f32]| states[..DIMENSION].to_vec();
        Ok(states.chunks_exact(longest * DIMENSION).map(first).collect())
    }
}
