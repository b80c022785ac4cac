"""What the Hub calls things: licences, tasks, metrics. Card metadata takes these words only."""

import re


# Identifiers that the Hub lists for `license`; `other` goes with license_name and license_link.
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
    """.split()
)
LICENSES_PAGE = "https://huggingface.co/docs/hub/repositories-licenses"
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")  # ISO 639-1, -2 or -3, and the Hub's two words

GLUE = "nyu-mll/glue"
PIPELINE_NAMES = {
    "automatic-speech-recognition": "Speech recognition",
    "audio-classification": "Audio classification",
    "image-classification": "Image classification",
    "text-classification": "Text classification",
}
# key of results.json -> (the Hub's metric, what a reader calls it); others of that file are no metrics of a model
METRICS = {
    "wer": ("wer", "word error rate"),
    "cer": ("cer", "character error rate"),
    "lm_wer": ("wer", "word error rate, with the language model"),
    "lm_cer": ("cer", "character error rate, with the language model"),
    "accuracy": ("accuracy", "accuracy"),
    "top5": ("accuracy", "top-5 accuracy"),
    "unweighted_accuracy": ("recall", "accuracy, mean over classes"),
    "mAP": ("mean_average_precision", "mean average precision"),
    "f1": ("f1", "F1"),
    "matthews_correlation": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
}
