# ruff: noqa: E501  (tables: a Chinese character counts double)
"""The closed bilingual vocabulary of the general world."""

from __future__ import annotations

from graftlm.data.worlds.names import pairs

PEOPLE = pairs(
    "Anna 安娜, Tom 汤姆, Lily 莉莉, Ben 本杰, Mia 米娅, Leo 里奥, Emma 爱玛, Jack 杰克, Nina 尼娜, Paul 保罗, "
    "Rosa 罗莎, Sam 山姆, Ming 小明, Hong 小红, Hua 小华, Mei 小美"
)
ANIMALS = pairs(
    "cat 猫, dog 狗, horse 马, cow 牛, sheep 羊, pig 猪, bird 鸟, fish 鱼, rabbit 兔子, duck 鸭子, hen 鸡, "
    "tiger 老虎, bear 熊, mouse 老鼠, elephant 大象, snake 蛇"
)
FOODS = pairs(
    "rice 米饭, bread 面包, apples 苹果, pears 梨, eggs 鸡蛋, soup 汤, cake 蛋糕, bananas 香蕉, meat 肉, "
    "noodles 面条, corn 玉米, beans 豆子, oranges 橙子, sugar 糖"
)
COLOURS = pairs(
    "red 红色, blue 蓝色, green 绿色, yellow 黄色, black 黑色, white 白色, grey 灰色, brown 棕色, pink 粉色, "
    "purple 紫色"
)
JOBS = pairs(
    "teacher 老师, doctor 医生, farmer 农民, cook 厨师, driver 司机, singer 歌手, painter 画家, writer 作家, "
    "nurse 护士, sailor 水手, worker 工人, soldier 士兵, baker 面包师, lawyer 律师"
)
ROOMS = pairs(
    "house 房子, garden 花园, kitchen 厨房, school 学校, market 市场, park 公园, library 图书馆, office 办公室, "
    "hall 大厅, bedroom 卧室, station 车站, hospital 医院, shop 商店, farm 农场"
)
THINGS = pairs(
    "ball 球, book 书, pen 笔, cup 杯子, bag 包, hat 帽子, lamp 灯, box 盒子, chair 椅子, coat 大衣, coin 硬币, "
    "clock 钟, knife 刀, phone 手机, letter 信, map 地图"
)
HABITATS = pairs(
    "forest 森林, river 河边, desert 沙漠, mountain 高山, sea 大海, lake 湖边, grassland 草地, cave 山洞"
)
INSTRUMENTS = pairs("piano 钢琴, guitar 吉他, drum 鼓, flute 笛子, violin 小提琴")
USES = pairs("tea 茶, medicine 药, paper 纸, oil 油, cloth 布, soap 肥皂, wine 酒, bread 面包")
WEEKDAYS = pairs(
    "Monday 星期一, Tuesday 星期二, Wednesday 星期三, Thursday 星期四, Friday 星期五, Saturday 星期六, Sunday 星期日"
)
MONTHS = pairs(
    "January 一月, February 二月, March 三月, April 四月, May 五月, June 六月, July 七月, August 八月, "
    "September 九月, October 十月, November 十一月, December 十二月"
)
COMPASS = pairs("north 北, east 东, south 南, west 西")
ACTIONS = pairs(
    "bought 买了, lost 丢了, found 找到了, sold 卖了, washed 洗了, took 拿了, forgot 忘了, liked 喜欢"
)
CATEGORIES: tuple[tuple[tuple[str, str], tuple[tuple[str, str], ...]], ...] = (
    (("animal", "动物"), ANIMALS),
    (("food", "食物"), FOODS),
    (("colour", "颜色"), COLOURS),
    (("job", "工作"), JOBS),
    (("month", "月份"), MONTHS),
    (("instrument", "乐器"), INSTRUMENTS),
    (("place", "地方"), ROOMS),
)
OPPOSITES = (
    pairs(
        "big 大, hot 热, high 高, fast 快, long 长, old 老, good 好, rich 富, heavy 重, clean 干净, open 开, early 早, "
        "full 满, day 白天, left 左, up 上, in front 前, inside 里面, buy 买, strong 强, hard 难, thick 厚, deep 深, many 多"
    ),
    pairs(
        "small 小, cold 冷, low 低, slow 慢, short 短, young 年轻, bad 坏, poor 穷, light 轻, dirty 脏, closed 关, late 晚, "
        "empty 空, night 黑夜, right 右, down 下, behind 后, outside 外面, sell 卖, weak 弱, easy 容易, thin 薄, "
        "shallow 浅, few 少"
    ),
)
SYNONYMS = {
    "en": pairs(
        "big large, quick fast, begin start, glad happy, sick ill, clever smart, shut close, angry mad, speak talk, "
        "whole entire, gift present, home house"
    ),
    "zh": pairs(
        "高兴 快乐, 美丽 好看, 开始 起头, 安静 平静, 马上 立刻, 聪明 机灵, 帮助 帮忙, 生气 发火, 学习 读书, "
        "知道 明白, 也许 可能, 疼 痛"
    ),
}
PLURALS = (
    "cat cats,dog dogs,book books,box boxes,bus buses,city cities,baby babies,leaf leaves,knife knives,child children,"
    "man men,woman women,foot feet,tooth teeth,mouse mice,sheep sheep,story stories,dish dishes,wolf wolves,key keys,"
    "boy boys,hero heroes,lady ladies,glass glasses,goose geese,lamp lamps,hat hats,apple apples,river rivers,pen pens"
)
PASTS = (
    "go went,see saw,eat ate,buy bought,take took,run ran,find found,give gave,come came,write wrote,sing sang,"
    "walk walked,play played,wash washed,drink drank,sleep slept,make made,know knew,think thought,sell sold,"
    "lose lost,help helped,open opened,begin began,swim swam,fly flew,bring brought,tell told,stand stood,read read"
)
WORDS = [
    "apple",
    "bread",
    "chair",
    "water",
    "river",
    "house",
    "garden",
    "tiger",
    "lemon",
    "table",
    "music",
    "paper",
    "stone",
    "cloud",
    "light",
    "green",
    "black",
    "white",
    "horse",
    "sheep",
    "mouse",
    "smile",
    "dream",
    "night",
    "plant",
    "fruit",
    "sugar",
    "knife",
    "clock",
    "train",
    "bridge",
    "window",
    "doctor",
    "nurse",
    "forest",
    "winter",
    "summer",
    "yellow",
    "orange",
    "silver",
    "market",
    "school",
    "letter",
    "number",
]
PHRASES_ZH = [
    "春天花开",
    "夏天水清",
    "秋天叶红",
    "冬天雪白",
    "早起早到",
    "多读多写",
    "山高水长",
    "风平海静",
    "心明眼亮",
    "好书好友",
    "一心一意",
    "三人同行",
    "十日十里",
    "东来西去",
    "小事大做",
    "前山后水",
]
OBJECT_COLOURS = (
    ("snow", "雪", 5), ("grass", "草", 2), ("the sky", "天空", 1), ("blood", "血", 0), ("coal", "煤", 4),
    ("milk", "牛奶", 5), ("a ripe banana", "香蕉", 3), ("the sea", "大海", 1), ("a leaf", "叶子", 2),
    ("salt", "盐", 5), ("the night sky", "夜空", 4), ("corn", "玉米", 3), ("a frog", "青蛙", 2),
    ("a fire engine", "消防车", 0), ("an elephant", "大象", 6),
)  # fmt: skip
MEASURES = (
    ("本", "书 地图 词典"), ("只", "猫 鸟 羊 鸡 鸭子"), ("条", "鱼 河 蛇 路"), ("把", "刀 椅子 伞"), ("辆", "车 火车 马车"),
    ("匹", "马"), ("头", "牛 猪 大象"), ("件", "大衣 衣服"), ("座", "山 桥 城"), ("杯", "水 茶 咖啡"), ("碗", "汤 米饭"),
    ("顶", "帽子"), ("封", "信"), ("张", "纸 桌子 床"), ("位", "老师 医生 客人"), ("朵", "花 云"),
)  # fmt: skip
DEFINITIONS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("a hospital", "医院"), ("a place where sick people are treated", "治病的地方")),
    (("a school", "学校"), ("a place where children learn", "孩子学习的地方")),
    (("a library", "图书馆"), ("a place with many books", "有很多书的地方")),
    (("a market", "市场"), ("a place where people buy and sell", "人们买卖的地方")),
    (("a farm", "农场"), ("a place where food is grown", "种食物的地方")),
    (("a kitchen", "厨房"), ("a room for cooking", "做饭的房间")),
    (("a bedroom", "卧室"), ("a room for sleeping", "睡觉的房间")),
    (("a nurse", "护士"), ("a person who cares for the sick", "照顾病人的人")),
    (("a baker", "面包师"), ("a person who makes bread", "做面包的人")),
    (("a teacher", "老师"), ("a person who teaches", "教书的人")),
    (("a sailor", "水手"), ("a person who works on a ship", "在船上工作的人")),
    (("a clock", "钟"), ("a thing that shows the time", "看时间的东西")),
    (("a lamp", "灯"), ("a thing that gives light", "发光的东西")),
    (("a map", "地图"), ("a picture of a place", "画着地方的图")),
    (("a dose", "用量"), ("how much of a drug to take", "吃多少药")),
    (("a symptom", "症状"), ("a sign of an illness", "生病的表现")),
    (("a department", "科室"), ("a part of a hospital", "医院的一个部分")),
    (("a contra-indication", "禁忌"), ("a reason not to use a drug", "不能用药的情况")),
    (("a fever", "发热"), ("a high body temperature", "体温很高")),
    (("cardiology", "心脏科"), ("the department for the heart", "治心脏的科室")),
    (("dermatology", "皮肤科"), ("the department for the skin", "治皮肤的科室")),
    (("neurology", "神经科"), ("the department for the nerves", "治神经的科室")),
    (("pediatrics", "儿科"), ("the department for children", "治孩子的科室")),
)
