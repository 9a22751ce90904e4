# The notebook's cells. `kernel.py build` fills in the ones named boot and config, drops those of the other kernel.mode,
# and turns the rest into kernel.ipynb with jupytext.
# ruff: noqa: E402

# %% [markdown]
# # {title}
#
# **From one photograph to one dense alpha channel.** The alphas to predict are not the nearly binary mattes of the
# usual data sets: they have half-tones everywhere, thick and dark parts denser than thin ones, a background that is
# not quite zero. What is scored is the plain mean squared error over every pixel, so a network that draws perfect
# *binary* mattes loses to one that knows how dense things are.
#
# | step | what happens | with |
# |---|---|---|
# | **dense targets** | near-binary alphas become X-ray-like ones during training | `xray_alpha_dense` |
# | **network** | U²-Net, seven side outputs, logits out | `u2net.py` |
# | **loss** | MSE and four terms for objects, thin parts, edges and background | `losses.py` |
# | **two validations** | against the alphas as they are, and against dense ones with their floor | `validation.py` |
# | **inference** | whole images, as they are and mirrored; rounded, never stretched | `predictor.py` |
#
# The notebook needs no internet: code comes with it, weights and settings in a data set of their own.

# %% [markdown] tags=["train"]
# This one **trains** on the attached pairs, in one process per GPU, and stops in time to predict the test images.

# %% [markdown] tags=["infer"]
# This one **predicts** with weights that were trained elsewhere and come in the attached data set.

# %% tags=["boot"]
SETTINGS = {}  # build puts boot.py and the compressed sources here

# %% [markdown]
# ## Configuration
#
# Every setting that matters here, as the run was built with it. Change a value and run all cells again: keys and ranges
# are checked, and a wrong one is named together with what is allowed.

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
# A matting data set says *where* an object is; the hidden test also wants to know *how dense* it is. `xray_alpha_dense`
# makes the second from the first and the photograph itself: a base density that grows where the object is dark at
# large scale, a texture from differences of Gaussians that modulates it, a ceiling, and a faint, slowly varying
# background. Its parameters are drawn anew for every sample. Two draws of the same pair stand side by side: what
# differs between them cannot be seen in the photograph. Its variance is the **floor**: no model's error falls below it.

# %%
show.pairs(job)

# %% [markdown] tags=["train"]
# ## Training
#
# `val_mse_dense` chooses the best epoch; `val_mse`, against the alphas as they are in the files, is only there to be
# looked at: a network that has learned dense targets perfectly cannot have a low one.

# %% tags=["train"]
weights = train(job)

# %% tags=["train"]
show.curves(job)

# %% [markdown] tags=["train"]
# Validation images after the last epoch. An error of 0.5 and more is drawn brightest.

# %% tags=["train"]
show.validation(job)

# %% [markdown] tags=["infer"]
# ## The weights
#
# What their checkpoint says of the epoch it was saved in, and how that epoch came about. `val_mse_dense` is the number
# that resembles the leaderboard's.

# %% tags=["infer"]
weights = job.bundle / "weights.pth"
show.weights(weights)

# %% tags=["infer"]
show.curves(job)

# %% [markdown]
# ## Predictions
#
# With `infer.tta` at `flip` each image is predicted twice, as it is and mirrored, and the two alphas are averaged. Rows
# go into `submission.csv` one by one, so memory does not grow with the size of the hidden test set. One GPU does it.

# %%
predict(job, weights)

# %%
show.predictions(job)

# %% [markdown]
# ## Submission
#
# One row per test image: its name, and the base64 of an 8-bit single-channel PNG of the image's own size. The file is
# held against the test images once more: names, order, sizes, PNG type.

# %%
finish(job)
