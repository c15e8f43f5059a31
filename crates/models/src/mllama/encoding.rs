//! Pictures on their way to the keys and values that text looks at, in pieces.
//!
//! All tiles of a picture see each other, so a layer is one over thousands of tokens, which takes
//! a CPU seconds. It is cut by rows: first all tokens' queries, keys and values, then what becomes
//! of each token. In either half rows need nothing of each other, and a row is computed alike
//! whatever stands beside it, so the cuts change no number.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use vlmd_backend::{Encoding, ImageInput};

use super::vision::{Layout, Vision};
use crate::common::decoder::cross::LookingDecoder;
use crate::common::encoder::Seen;
use crate::common::padding::ALIGNMENT;
use crate::common::stages::{InPieces, Stage, Staged};
use crate::common::views::Views;

/// Blocks that the tokens of a tile are cut into. A tile is filled up to a multiple of it. Of the
/// published models a block has 201 tokens; a layer over one block of four tiles is about the
/// work of a layer of CLIP-L over a view of 336 x 336.
const TILE_BLOCKS: usize = ALIGNMENT;

/// Begins to encode pictures, one after the other.
pub(super) fn begin(
    vision: &Arc<Vision>,
    decoder: &Arc<LookingDecoder>,
    images: &[&ImageInput],
) -> Result<Box<dyn Encoding>> {
    if decoder.looking() == 0 {
        bail!("no layer of the decoder looks at pictures");
    }
    let mut pictures = Pictures {
        vision: Arc::clone(vision),
        decoder: Arc::clone(decoder),
        waiting: VecDeque::with_capacity(images.len()),
        kept: Vec::with_capacity(images.len()),
    };
    let mut stages = Vec::new();
    for image in images {
        let picture = Picture::new(vision.layout(image)?, image);
        stages.extend(pictures.stages(&picture.layout));
        pictures.waiting.push_back(picture);
    }
    let unit = vision.layers().first().map_or(1, |layer| {
        let (rows, tokens) = (vision.tile_tokens() / TILE_BLOCKS, vision.tokens());
        layer.project_work(rows) + layer.attend_work(rows, tokens)
    });
    Ok(Box::new(InPieces::new(pictures, stages, unit)))
}

/// What a picture goes through.
#[derive(Debug, Clone, Copy)]
enum Pass {
    /// Pixels to tokens, by tiles.
    Embed,
    /// Queries, keys and values of a layer, by blocks like all that follows.
    Project(usize),
    /// What a layer makes of tokens with these.
    Attend(usize),
    /// Tokens to features in the decoder's width.
    Combine,
    /// Features to the keys that a layer of the decoder looks at.
    Keys(usize),
    /// The same for values.
    Values(usize),
}

struct Pictures {
    vision: Arc<Vision>,
    decoder: Arc<LookingDecoder>,
    /// Those that are not done. The first one is encoded.
    waiting: VecDeque<Picture>,
    /// Of those that are done: keys and values of all layers that look,
    /// `[layers, 2, features, kv_heads, head_dim]`.
    kept: Vec<Tensor>,
}

/// A picture at some pass.
struct Picture {
    layout: Layout,
    /// Its tiles.
    views: Views,
    /// What became of them: tokens `[tokens, hidden]`, then features `[features, text_hidden]`.
    x: Option<Tensor>,
    /// Of the layer that is at its second half.
    seen: Option<Seen>,
    /// States of tokens that are part of features.
    inner: Vec<Tensor>,
    /// Keys and values in turn, each `[features, kv_heads, head_dim]`.
    shown: Vec<Tensor>,
}

impl Picture {
    fn new(layout: Layout, image: &ImageInput) -> Self {
        Self {
            layout,
            views: Views::of(&[image]),
            x: None,
            seen: None,
            inner: Vec::new(),
            shown: Vec::new(),
        }
    }

    fn x(&self) -> Result<&Tensor> {
        match &self.x {
            Some(x) => Ok(x),
            None => bail!("the tiles are not embedded yet"),
        }
    }
}

impl Pictures {
    fn stages(&self, layout: &Layout) -> Vec<Stage<Pass>> {
        let (vision, decoder) = (&*self.vision, &*self.decoder);
        let (rows, tokens) = (vision.tile_tokens() / TILE_BLOCKS, vision.tokens());
        let stage = |step, items, work| Stage { step, items, work };
        let mut stages = vec![stage(Pass::Embed, vision.max_tiles(), vision.embed_work())];
        let blocks = tokens.div_ceil(rows);
        for (index, layer) in vision.layers().iter().enumerate() {
            let attend = layer.attend_work(rows, tokens);
            stages.push(stage(
                Pass::Project(index),
                blocks,
                layer.project_work(rows),
            ));
            stages.push(stage(Pass::Attend(index), blocks, attend));
        }
        let blocks = layout.features.div_ceil(rows);
        stages.push(stage(Pass::Combine, blocks, vision.combine_work(rows)));
        for index in 0..decoder.looking() {
            let work = decoder.keys_work(rows);
            stages.push(stage(Pass::Keys(index), blocks, work));
            stages.push(stage(Pass::Values(index), blocks, work));
        }
        stages
    }

    /// Rows of these blocks, where there are `end` in all.
    fn rows(&self, blocks: &Range<usize>, end: usize) -> Range<usize> {
        let rows = self.vision.tile_tokens() / TILE_BLOCKS;
        blocks.start * rows..end.min(blocks.end * rows)
    }
}

impl Staged for Pictures {
    type Step = Pass;

    fn compute(&self, pass: Pass, items: Range<usize>) -> Result<Tensor> {
        let (vision, decoder) = (&*self.vision, &*self.decoder);
        let Some(picture) = self.waiting.front() else {
            bail!("all pictures are encoded");
        };
        let layout = &picture.layout;
        let some = |rows: Range<usize>| picture.x()?.narrow(0, rows.start, rows.len());
        let features = |items| some(self.rows(items, layout.features));
        match pass {
            Pass::Embed => vision.embed(&picture.views, layout, items),
            Pass::Project(index) => {
                vision.project(index, &some(self.rows(&items, vision.tokens()))?)
            }
            Pass::Attend(index) => {
                let Some(seen) = &picture.seen else {
                    bail!("nothing is seen before layer {index} has projected it");
                };
                let rows = self.rows(&items, vision.tokens());
                vision.attend(index, picture.x()?, seen, layout, rows)
            }
            Pass::Combine => {
                let rows = self.rows(&items, layout.features);
                vision.combine(picture.x()?, &picture.inner, layout, rows)
            }
            Pass::Keys(index) => decoder.keys(index, &features(&items)?),
            Pass::Values(index) => decoder.values(index, &features(&items)?),
        }
    }

    fn complete(&mut self, pass: Pass, result: Tensor) -> Result<()> {
        let vision = &*self.vision;
        let Some(picture) = self.waiting.front_mut() else {
            bail!("all pictures are encoded");
        };
        match pass {
            Pass::Embed => picture.x = Some(vision.sorted(&result, &picture.layout)?),
            Pass::Project(index) => {
                picture.seen = Some(vision.seen(index, &result)?);
                // transformers from 4.55 on takes other states here and is wrong.
                if vision.is_intermediate(index) {
                    picture.inner.push(picture.x()?.clone());
                }
            }
            Pass::Attend(index) => {
                picture.seen = None;
                picture.x = Some(vision.after_layer(index, result, &picture.layout)?);
            }
            Pass::Combine => {
                picture.inner.clear();
                picture.x = Some(result);
            }
            Pass::Keys(_) | Pass::Values(_) => {
                picture.shown.push(result);
                let layers = self.decoder.looking();
                if picture.shown.len() == 2 * layers {
                    let shown = Tensor::stack(&picture.shown, 0)?;
                    let (_, features, heads, width) = shown.dims4()?;
                    self.kept
                        .push(shown.reshape((layers, 2, features, heads, width))?);
                    self.waiting.pop_front();
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Tensor>> {
        Ok(self.kept)
    }
}
