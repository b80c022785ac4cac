"""Many runs of one recipe, compared by one number: `data2vec sweep RECIPE.yaml`."""
