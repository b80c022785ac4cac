"""Point2Vec with a task's head: a label for a cloud, or for each of its points."""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_point2vec import Point2VecConfig
from .heads import classification_loss, head_dropout, label_layer
from .initialization import MaskToken
from .modeling_data2vec2 import EncoderOptions
from .modeling_point2vec import Point2VecModel, Point2VecPreTrainedModel
from .point_groups import interpolate
from .ranges import require_indices


CATEGORY_DIM = 64
UPSAMPLED_DIM = 384


def normed(inside: int, outside: int) -> list[nn.Module]:
    """A linear layer and its batch norm, which has the bias."""
    return [nn.Linear(inside, outside, bias=False), nn.BatchNorm1d(outside)]


class Point2VecForPointCloudClassification(Point2VecPreTrainedModel):
    """A label for a cloud, from what `config.classifier_pooling` says of its tokens."""

    def __init__(self, config: Point2VecConfig):
        super().__init__(config)
        self.point2vec = Point2VecModel(config)
        dim, inside = config.hidden_size, config.classifier_proj_size
        has_cls = config.classifier_pooling.startswith("cls")
        self.cls_token = MaskToken(dim) if has_cls else None
        self.cls_position = MaskToken(dim) if has_cls else None
        dim *= {"mean_max": 2, "cls_mean_max": 3}.get(config.classifier_pooling, 1)
        layers: list[nn.Module] = []
        if inside is not None:
            layers += [*normed(dim, inside), nn.ReLU(), head_dropout(config)]
            layers += [*normed(inside, inside), nn.ReLU(), head_dropout(config)]
        self.classifier = nn.Sequential(*layers, label_layer(inside or dim, config))
        self.post_init()

    def pooled(self, hidden: Tensor) -> Tensor:
        """`(batch, time, dim)`, a class token in front where there is one -> what the classifier reads."""
        pooling = self.config.classifier_pooling
        cls, groups = hidden[:, 0], hidden[:, int(self.cls_token is not None) :]
        found = {"cls": [cls], "max": [groups.amax(1)], "mean": [groups.mean(1)]}
        found["mean_max"] = [*found["max"], *found["mean"]]
        return torch.cat(found.get(pooling, [*found["cls"], *found["mean_max"]]), dim=-1)

    @can_return_tuple
    def forward(
        self,
        point_values: Tensor,
        attention_mask: Tensor | None = None,
        start: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SequenceClassifierOutput:
        """
        Args:
            point_values, attention_mask, start: as in [`Point2VecModel`].
            labels: `(batch,)` long.
        """
        encoder = self.point2vec
        tokens = encoder.embed((point_values, attention_mask, start))
        values, positions = tokens.values, encoder.positions(tokens)
        if self.cls_token is not None and self.cls_position is not None:
            rows = len(values)
            values = torch.cat((self.cls_token(values.dtype).expand(rows, 1, -1), values), dim=1)
            positions = torch.cat((self.cls_position(positions.dtype).expand(rows, 1, -1), positions), dim=1)
        output = encoder.encoder(
            values,
            positions=positions,
            output_hidden_states=bool(output_hidden_states),
            output_attentions=bool(output_attentions),
        )
        logits = self.classifier(self.pooled(output.last_hidden_state))  # (batch, labels)
        loss = classification_loss(logits.float(), labels, self.config, self.config.label_smoothing)
        return SequenceClassifierOutput(loss, logits, output.hidden_states, output.attentions)


class Point2VecForPartSegmentation(Point2VecPreTrainedModel):
    """A part for each point of an object whose category is known.

    Blocks' outputs, layer-normed and averaged, are interpolated to the points from the three nearest centres.
    """

    def __init__(self, config: Point2VecConfig):
        super().__init__(config)
        if max(config.segmentation_layers) >= config.num_hidden_layers:
            raise ValueError(
                f"segmentation_layers = {config.segmentation_layers}: must be below num_hidden_layers = "
                f"{config.num_hidden_layers}."
            )
        self.point2vec = Point2VecModel(config)
        dim, inside = config.hidden_size, config.segmentation_proj_size
        self.categories = nn.Sequential(*normed(config.num_categories, CATEGORY_DIM), nn.LeakyReLU(0.2))
        self.upsampling = nn.Sequential(
            *normed(3 + dim, UPSAMPLED_DIM), nn.ReLU(), *normed(UPSAMPLED_DIM, UPSAMPLED_DIM), nn.ReLU()
        )
        self.classifier = nn.Sequential(
            *normed(UPSAMPLED_DIM + 2 * dim + CATEGORY_DIM, inside),
            nn.ReLU(),
            head_dropout(config),
            *normed(inside, inside // 2),
            nn.ReLU(),
            label_layer(inside // 2, config),
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        point_values: Tensor,
        categories: Tensor,
        attention_mask: Tensor | None = None,
        start: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> TokenClassifierOutput:
        """
        Args:
            point_values, attention_mask, start: as in [`Point2VecModel`].
            categories: `(batch,)` long, what kind of object each cloud is.
            labels: `(batch, points)` long, the part of each point; -100 does not count.
        """
        encoder, config = self.point2vec, self.config
        require_indices("categories", categories, config.num_categories)
        tokens = encoder.embed((point_values, attention_mask, start))
        asked = options.get("output_hidden_states")
        output = encoder._encode(tokens, **options | {"output_hidden_states": True})
        read = [output.hidden_states[number + 1] for number in config.segmentation_layers]
        found = torch.stack([F.layer_norm(states, states.shape[-1:]) for states in read]).mean(
            0
        )  # (batch, groups, dim)
        kinds = F.one_hot(categories, config.num_categories).to(found.dtype)
        cloud = torch.cat((found.amax(1), found.mean(1), self.categories(kinds)), dim=-1)  # (batch, cloud dim)
        spread = interpolate(point_values.to(found.dtype), tokens.coordinates.to(found.dtype), found)
        points = torch.cat((point_values.to(found.dtype), spread), dim=-1)  # (batch, points, 3 + dim)
        real = torch.ones_like(points[..., 0], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        rows = self.upsampling(points[real])  # of real points alone, which batch norm counts
        whole = cloud.unsqueeze(1).expand(-1, points.shape[1], -1)[real]
        chosen = self.classifier(torch.cat((rows, whole), dim=-1))  # (real points, parts)
        logits = chosen.new_zeros(*real.shape, chosen.shape[-1]).masked_scatter(real.unsqueeze(-1), chosen)
        states = output.hidden_states if (config.output_hidden_states if asked is None else asked) else None
        if labels is not None and attention_mask is not None:
            labels = labels.masked_fill(~real, -100)
        return TokenClassifierOutput(classification_loss(logits, labels, config), logits, states, output.attentions)
