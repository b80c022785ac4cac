"""Many runs of one recipe, compared by one number: `python -m data2vec.pretraining.sweep RECIPE.yaml`."""
