from support.replay import PICTURE, VECTOR


def test_frame_specs_know_pictures_and_their_bytes():
    assert PICTURE.is_picture
    assert PICTURE.nbytes == 4
    assert not VECTOR.is_picture
    assert VECTOR.nbytes == 12
