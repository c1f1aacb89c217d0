"""Boxes of maps, overlap and the pointing game against references; methods with known answers."""

import numpy as np
import pytest
import scipy.ndimage

from data.boxed_images import BoxedImage
from inference import localization_measures as measures
from inference import quadrants
from inference.localization_measures import Method, Question

RNG = np.random.default_rng(0)
SIZE = (12, 20)


def random_boxes(count, size=SIZE):
    """Boxes with whole sides."""
    corners = [np.sort(RNG.integers(0, side + 1, (count, 2)), axis=1) for side in size]
    (top, bottom), (left, right) = (corner.T for corner in corners)
    boxes = np.stack([top, left, bottom, right], axis=1)
    return boxes[(top < bottom) & (left < right)]


def mask(box, size=SIZE):
    pixels = np.zeros(size, bool)
    pixels[box[0] : box[2], box[1] : box[3]] = True
    return pixels


def test_overlap_is_what_counting_pixels_gives():
    ours, others = random_boxes(30), random_boxes(20)
    found = measures.overlap(ours, others.astype(np.float64))
    expected = [
        [(mask(a) & mask(b)).sum() / (mask(a) | mask(b)).sum() for b in others] for a in ours
    ]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("scale", [1.0, -7.0, 1e-6])
def test_the_box_is_that_of_scipys_largest_component(threshold, scale):
    for _ in range(20):
        map_ = scale * scipy.ndimage.gaussian_filter(RNG.standard_normal(SIZE), 1.2)
        map_ = map_.astype(np.float32)
        unit = (map_ - map_.min()) / (map_.max() - map_.min())
        labels, _ = scipy.ndimage.label(unit >= threshold, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        found = measures.box_of_map(map_, threshold)
        parts = scipy.ndimage.find_objects(labels)
        boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in parts]
        largest = [box for box, size in zip(boxes, sizes, strict=True) if size == sizes.max()]
        assert tuple(found) in largest


def test_the_box_of_a_map_of_one_value_is_the_image():
    for value in (0.0, -3.0, 5.0):
        assert measures.box_of_map(np.full(SIZE, value), 0.5).tolist() == [0, 0, 12, 20]


def test_pointing_game():
    boxes = np.array([[2, 3, 6, 9], [8, 15, 12, 20]], np.float64)
    map_ = np.zeros(SIZE)
    map_[4, 5] = 1
    assert measures.pointing(map_, boxes, 0) == 1
    map_[4, 11] = 2  # 2.5 pixels to the right of the first box
    assert measures.pointing(map_, boxes, 2.4) == 0
    assert measures.pointing(map_, boxes, 2.5) == 1
    map_[9, 16] = 2  # one of two maxima
    assert measures.pointing(map_, boxes, 0) == 0.5
    share = (mask((2, 3, 6, 9)) | mask((8, 15, 12, 20))).mean()
    assert measures.pointing(np.ones(SIZE), boxes, 0) == pytest.approx(share)


def image_of(boxes, labels=(0,), size=SIZE):
    return BoxedImage(np.zeros((*size, 1), np.uint8), labels, np.array(boxes, np.float32))


def test_one_question_for_each_class_of_an_image():
    images = [
        image_of([[4, 0, 0, 0.5, 0.5], [2, 0, 0.5, 1, 1], [4, 0.5, 0.5, 1, 1]], (2, 4)),
        None,
        image_of(np.zeros((0, 5))),
        image_of([[1, 0, 0, 1, 1]]),
    ]
    counts = {}
    found = list(measures.questions_of(images, counts))
    assert counts == {"images": 2, "images_without_boxes": 1, "unreadable_images": 1}
    assert [(q.label, q.num_classes, len(q.boxes)) for q in found] == [
        (2, 2, 1),
        (4, 2, 2),
        (1, 1, 1),
    ]
    assert found[1].boxes.tolist() == [[0, 0, 6, 10], [6, 10, 12, 20]]


def questions(count=60, size=SIZE):
    """Boxes of half the image and more, so that a centre box overlaps with some."""
    found = []
    for number, box in enumerate(random_boxes(8 * count, size)):
        if mask(box, size).mean() > 0.2 and len(found) < count:
            image = np.full((*size, 1), number % 7, np.uint8)
            found.append(Question(image, number % 7, box[None].astype(np.float64), 1))
    return found


def ask(methods, asked, settings=None, **options):
    settings = settings or {name: method.settings for name, method in methods.items()}
    options = {"batch_size": 8, "tolerance": 0.0} | options
    options.setdefault("logits", lambda images: np.eye(7)[images[:, 0, 0, 0]])
    return measures.answers(methods, settings, asked, **options)


def oracle(asked):
    """A method that knows the boxes, in the order in which it is asked, also for padding."""
    rows = [mask(q.boxes[0].astype(int)).astype(np.float32) for q in asked]
    place = iter(range(0, len(rows), 8))

    def look(images, classes):
        start = next(place)
        assert classes[0] == asked[start].label and len(classes) == 8
        return np.stack((rows[start : start + 8] + [rows[-1]] * 8)[:8])

    return Method(look)


def test_a_method_that_knows_the_boxes_is_always_right():
    asked = questions()
    answered = ask({"oracle": oracle(asked)}, asked, {"oracle": (0.5,)})
    assert measures.summarize(answered)["oracle"] == {
        "top1_error": 0.0,
        "gt_known_error": 0.0,
        "pointing_game": 1.0,
    }
    # A wrong class makes the first measure wrong, and no other.
    answered = ask(
        {"oracle": oracle(asked)},
        asked,
        {"oracle": (0.5,)},
        logits=lambda images: np.eye(7)[np.where(images[:, 0, 0, 0] == 3, 4, images[:, 0, 0, 0])],
    )
    found = measures.summarize(answered)["oracle"]
    assert found["top1_error"] == pytest.approx(np.mean([q.label == 3 for q in asked]))
    assert found["gt_known_error"] == 0


def test_with_several_classes_an_image_each_has_to_be_among_as_many():
    box = np.array([[0.0, 0, 12, 20]])
    image = np.zeros((*SIZE, 1), np.uint8)
    asked = [Question(image, label, box, 2) for label in (0, 1, 2)]
    logits = np.array([[2.0, 1.0, 1.0, -np.inf]])  # of equals, the lower label is first
    methods = {"whole": measures.floors(SIZE)["whole_image"]}
    answered = ask(methods, asked, logits=lambda images: logits.repeat(len(images), 0))
    assert answered["named"].tolist() == [True, True, False]


def test_the_best_setting_is_chosen_and_floors_are_what_a_count_gives():
    asked = questions()
    methods = measures.floors(SIZE)
    answered = ask(methods, asked)
    chosen = measures.choose(answered, {name: m.settings for name, m in methods.items()})
    assert chosen["whole_image"] == 1.0
    errors = []
    for side in measures.CENTER_SIDES:
        cut = (1 - side) / 2
        box = np.array([[cut * 12, cut * 20, (1 - cut) * 12, (1 - cut) * 20]])
        hits = [measures.overlap(box, q.boxes)[0, 0] >= 0.5 for q in asked]
        errors.append(1 - np.mean(hits))
    found = measures.summarize(ask(methods, asked, {n: (s,) for n, s in chosen.items()}))
    assert found["center_box"]["gt_known_error"] == pytest.approx(min(errors))
    assert chosen["center_box"] == measures.CENTER_SIDES[int(np.argmin(errors))]
    areas = [[mask(q.boxes[0].astype(int)).mean() for q in asked if q.label == c] for c in range(7)]
    expected = np.mean([np.mean(area) for area in areas])  # a mean over classes
    assert found["whole_image"]["pointing_game"] == pytest.approx(expected)


def mosaic(numbers=(2,), level=200):
    """A question about a class in some quadrants of an image of 16 x 16, all full of strokes."""
    image = RNG.integers(100, level, (16, 16, 1)).astype(np.uint8)
    image[::2] = 0
    boxes = np.array(quadrants.quarters((0, 0, 16, 16)), np.float64)[list(numbers)]
    return Question(image, 0, boxes, 4)


def test_quadrants_are_found():
    assert quadrants.quadrants_of(mosaic((0, 3))) == [0, 3]
    question = mosaic()
    moved = Question(question.image, 0, question.boxes + np.array([0, 0, 0, 1]), 4)
    assert quadrants.quadrants_of(moved) is None


def test_the_way_takes_the_largest_sum():
    for steps, leaves in ((2, 16), (3, 64)):
        blocks = quadrants.leaves((16, 16), steps)
        assert len(set(blocks)) == leaves
        for box in blocks:
            way, found = quadrants.way_of(mask(box, (16, 16)).astype(np.float32) - 2, steps)
            assert found == box and len(way) == steps
            first = quadrants.quarters((0, 0, 16, 16))[way[0]]
            assert first[0] <= box[0] and box[3] <= first[3]


def test_measures_of_mosaics_and_their_chance():
    question = mosaic((1,))
    question.image[:4, 8:12] = 0  # a block of the quadrant without a stroke
    question.image[4:8, 8:12] //= 3  # and one with faint ones
    blocks = [(0, 8, 4, 12), (4, 8, 8, 12), (0, 12, 4, 16), (4, 12, 8, 16), (0, 0, 4, 4)]
    found = []
    for box in blocks:
        row = quadrants.measure_way(question, mask(box, (16, 16)).astype(float), steps=2)
        found.append([row[name] for name in quadrants.MEASURES])
    assert found == [[1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert quadrants.chance(question, steps=2) == dict(
        zip(quadrants.MEASURES, (1 / 4, 2 / 16, 2 / 16), strict=True)
    )
    assert quadrants.chance(mosaic((0, 3)), steps=2)["first_step"] == 0.5
