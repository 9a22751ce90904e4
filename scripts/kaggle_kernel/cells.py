# The notebook's cells. `kernel.py build` fills in the cells tagged boot and config, drops those of the other
# kernel.mode, and converts the rest to kernel.ipynb with jupytext.
# ruff: noqa: E402

# %% [markdown]
# # {title}
#
# **From one photograph to one dense alpha channel.** The alphas to predict differ from the nearly binary mattes of the
# usual data sets: they have half-tones everywhere, thick and dark parts are denser than thin ones, and the background
# is not quite zero. The score is the mean squared error over all pixels, so a network that draws perfect *binary*
# mattes loses to one that predicts how dense things are.
#
# | step | what happens | with |
# |---|---|---|
# | **network** | U²-Net finds the object's alpha; seven side outputs, logits out | `u2net.py` |
# | **dense alpha** | made from that alpha and the photograph, X-ray-like | `xray_alpha_dense` |
# | **loss** | MSE and four terms for objects, thin parts, edges and background | `losses.py` |
# | **two validations** | against the files' own alphas, and against dense ones with their floor | `validation.py` |
# | **inference** | whole images, plain and mirrored; values rounded, never stretched | `predictor.py` |
#
# The notebook needs no internet: it contains the code, and a data set provides weights and settings.

# %% [markdown] tags=["train"]
# This notebook **trains** on the attached pairs, one process per GPU, and stops in time to predict the test images.

# %% [markdown] tags=["infer"]
# This notebook **predicts** with weights from the attached data set, trained elsewhere.

# %% tags=["boot"]
SETTINGS = {}  # build puts boot.py and the compressed sources here

# %% [markdown]
# ## Configuration
#
# The settings that this notebook was built with. Change a value and run all cells again; a wrong key or value gives an
# error that says what is allowed.

# %% tags=["config"]
CONFIG = {}  # build puts the resolved settings here

# %%
# %matplotlib inline
from on_kaggle import figures as show
from on_kaggle.main import finish, predict, start, train

job = start(SETTINGS, CONFIG)

# %% [markdown]
# ## The test images

# %%
show.test_images(job)

# %% [markdown]
# ## Dense targets
#
# A matting data set says *where* an object is; the hidden test also asks *how dense* it is. `xray_alpha_dense` computes
# density from the alpha and the photograph: a base density that is higher where the object is dark at large scale, a
# texture from differences of Gaussians that modulates it, a ceiling, and a faint, slowly varying background. Its
# parameters are drawn anew for every sample. Below are two draws for each pair. The photograph cannot tell which one
# was drawn, so no model's error falls below the variance between draws, the **floor**.

# %%
show.pairs(job)

# %% [markdown] tags=["train"]
# ## Training
#
# `val_mse_dense` selects the best epoch. `val_mse`, against the files' own alphas, is only for information.

# %% tags=["train"]
weights = [train(job)]

# %% tags=["train"]
show.curves(job)

# %% [markdown] tags=["train"]
# Validation images after the last epoch. Errors of 0.5 and more are brightest.

# %% tags=["train"]
show.validation(job)

# %% [markdown] tags=["infer"]
# ## The weights
#
# Each checkpoint's epoch and metrics, then the curves of the run. `val_mse_dense` is the closest to the
# leaderboard's score.

# %% tags=["infer"]
weights = job.weights
show.weights(weights)

# %% tags=["infer"]
show.curves(job)

# %% [markdown]
# ## Predictions
#
# With `infer.tta` at `flip` each image is predicted twice, plain and mirrored, and the two alphas are averaged; so are
# those of several networks and sizes. Rows are written to `submission.csv` one by one, so memory does not grow with the
# hidden test set. This uses one GPU.

# %%
predict(job, weights)

# %%
show.predictions(job)

# %% [markdown]
# ## Submission
#
# One row per test image: its name, and the base64 of an 8-bit single-channel PNG of the image's own size. The last cell
# checks the file against the test images: names, order, sizes, PNG type.

# %%
finish(job)
