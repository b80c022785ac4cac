"""Classification of videos, of skeletons, or of both (SV-data2vec)."""

from transformers import AutoModelForVideoClassification

from ...pretraining.data.labels import number_labels
from ...pretraining.modalities.skeleton_video import SkeletonVideoData, SkeletonVideoDataArguments
from ..classification import Classification
from ..data_arguments import FineTuneDataArguments
from ..labels import labelled_examples, open_splits
from ..streams import StreamsReader, StreamsTaskArguments
from ..task import TaskData


class VideoClassification(Classification[StreamsTaskArguments, FineTuneDataArguments]):
    """One class a clip, with the published head; smoothing and dropout are the model's."""

    name = "video_classification"
    script = "run_video_classification.py"
    arguments_class = StreamsTaskArguments
    data_class = FineTuneDataArguments
    modalities = (SkeletonVideoData,)
    config_fields = ("num_joints",)
    auto_class = AutoModelForVideoClassification

    def build_data(self) -> TaskData:
        data, seed = self.data_args, self.run.training.seed
        processor = SkeletonVideoData.open_processor(str(self.run.checkpoint))
        reading = SkeletonVideoDataArguments(sources=[data.train], probe_streams=["video", "skeleton"])
        modality = SkeletonVideoData(reading, self.run.config, processor)
        reader = StreamsReader(modality, self.args)
        splits = open_splits(data, reader.kind)
        labels = number_labels(splits)
        train, evaluation = labelled_examples(data, splits, labels, reader, seed=seed)
        self.names = labels.names
        return TaskData(
            train,
            reader.evaluation(evaluation),
            collator=modality.collator(None, seed),
            processor=modality.processor,
            label_names=labels.names,
            problem_type="single_label_classification",
        )
