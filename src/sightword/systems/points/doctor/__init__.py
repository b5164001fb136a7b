"""Do depth, poses, intrinsics, colour and cloud of a scene belong together, and under which convention?"""
