"""The random streams of the methods: each draws from the key of its sample and a number of its own, all listed here.

    keys = derive_keys(batch["key"], salts.MASK)

The numbers are part of the results: another number gives another mask. Two methods may share one, for a run has one
method, and `Joint` gives every part its own keys. Views use the numbers 0, 1, ... in their order.
"""

MASK = 501  # which blocks or patches are masked; a second view adds 1
INTENSITY_CHANGE = 502  # of SimMIM's restore_intensity
NOISE = 503  # of DenoisingAutoencoder
PREFIX = 503  # how many patches AIM sees in both directions
FIRST_TO_PREDICT = 504  # the slice or frame from which NextSlice predicts
LATENT_NOISE = 504  # of VAE
TILE_INTENSITY = 505  # of each tile of a relational pretext
SIDE = 506  # on which side of the first tile the second one lies
SIDE_JITTER = 507  # by how much both are moved
PERMUTATION = 508  # of Jigsaw's tiles
TILE_JITTER = 509  # where in its cell each tile lies
RANDOM_CROPS = 510  # of VoCo
BOX_COUNT = 511  # of VolumeFusion
BOXES = 512
DAMAGE = 513  # which damages of Models Genesis a scan gets
SHUFFLING = 514
CURVE = 515
PAINTING = 516
PAINTED_NOISE = 517
PART = 700  # of Joint, plus the part's number
